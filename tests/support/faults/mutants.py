"""Hostile model files: good ones, changed at random in ways that parsers have died of."""

from __future__ import annotations

import random
import struct

EXTREME = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFF0, 1 << 20)


def mutant(data: bytes, seed: int) -> bytes:
    """`data` after one to four changes; the same for the same seed, and never `data` itself."""
    rng = random.Random(seed)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 4))):  # few, so that many files pass the format's own checks
        rng.choice(CHANGES)(changed, rng)
    if bytes(changed) == data:
        changed[rng.randrange(len(changed))] ^= 0xFF
    return bytes(changed)


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 1, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))


def _extreme(data: bytearray, rng: random.Random) -> None:
    """An offset, a length or a count becomes an extreme one; offsets lie at multiples of four in flatbuffers."""
    at = rng.randrange(max(1, len(data) - 4)) & ~3
    data[at : at + 4] = struct.pack("<I", rng.choice(EXTREME))


def _noise(data: bytearray, rng: random.Random) -> None:
    at, size = rng.randrange(len(data)), rng.choice((4, 32, 256))
    data[at : at + size] = rng.randbytes(len(data[at : at + size]))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[max(16, rng.randrange(len(data))) :]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at, size = rng.randrange(len(data)), rng.choice((4, 16, 128))
    data[at:at] = data[at : at + size] * rng.choice((1, 2, 50))


def _swap(data: bytearray, rng: random.Random) -> None:
    size = min(rng.choice((4, 16, 64)), len(data) // 3)
    one, other = sorted(rng.randrange(len(data) - size) for _ in range(2))
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]


CHANGES = (_flip, _flip, _flip, _byte, _byte, _byte, _extreme, _extreme, _noise, _cut, _repeat, _swap)

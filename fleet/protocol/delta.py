"""Patches from one blob to another: the format, and how one is applied. Compression comes in as readers.

A delta is an unsigned hint: it is bounded by the signed size of what it makes, and what it makes counts
only when its hash is the signed one. Three ways to make the new file:

whole     it is in the patch
subtract  byte by byte `old + patch` mod 256; both files have one length (a model that was trained on)
bsdiff    copies of the old file at other places with a byte-wise difference, and new bytes in between
          (C. Percival, "Naive differences of executable code", 2003)

Layout, little-endian: magic `ELD1`, method u8, three zero bytes, old and new SHA-256, old and new size
u64, and the lengths u64 of three sections; then the sections `control`, `diff` and `extra`, each one
Zstandard frame (RFC 8878) or empty. `control` holds triples of i64: bytes to take from `diff` on top of
the old file, bytes to take from `extra`, and how far to move in the old file before the next triple.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from fleet.protocol.errors import MalformedError, TooLargeError

Method = Literal["whole", "subtract", "bsdiff"]
METHODS: Final[tuple[Method, ...]] = ("whole", "subtract", "bsdiff")
MAGIC: Final = b"ELD1"
CHUNK: Final = 64 << 10  # bytes in memory at a time
MAX_SIZE: Final = 4 << 30
WINDOW_LOG: Final = 23  # Zstandard's window: 8 MiB, the most that a reader must hold

_LAYOUT = struct.Struct("<4sB3x32s32s5Q")
_TRIPLE = struct.Struct("<3q")
HEADER_SIZE: Final = _LAYOUT.size

Read = Callable[[int], bytes]  # at most so many bytes of a section's content; empty at its end
ReadAt = Callable[[int, int], bytes]  # (offset, count) of the old file


class Header(Struct, frozen=True, kw_only=True):
    """The head of a patch. Hashes are lower-case hex; `sections` are compressed lengths in bytes."""

    method: Method
    old: str
    new: str
    old_size: int
    new_size: int
    sections: tuple[int, int, int]

    @property
    def total(self) -> int:
        """Bytes of the whole patch."""
        return HEADER_SIZE + sum(self.sections)


def encode_header(header: Header) -> bytes:
    """The first `HEADER_SIZE` bytes of a patch."""
    return _LAYOUT.pack(
        MAGIC,
        METHODS.index(header.method),
        bytes.fromhex(header.old),
        bytes.fromhex(header.new),
        header.old_size,
        header.new_size,
        *header.sections,
    )


def decode_header(data: bytes, *, total: int | None = None) -> Header:
    """The header of a patch of `total` bytes; None where it is not all here.

    Raises:
        MalformedError: not a patch, an unknown method, or sections that do not fill it.
        TooLargeError: a size beyond 4 GiB.
    """
    if len(data) < HEADER_SIZE or data[:4] != MAGIC:
        raise MalformedError("not a delta", subject="delta")
    _, method, old, new, old_size, new_size, control, diff, extra = _LAYOUT.unpack(data[:HEADER_SIZE])
    if method >= len(METHODS):
        raise MalformedError(f"delta method {method} is unknown here", subject="delta")
    if max(old_size, new_size) > MAX_SIZE:
        raise TooLargeError(f"a delta between files of more than {MAX_SIZE} bytes", subject="delta")
    header = Header(
        method=METHODS[method],
        old=old.hex(),
        new=new.hex(),
        old_size=old_size,
        new_size=new_size,
        sections=(control, diff, extra),
    )
    if total not in (None, header.total):
        raise MalformedError(f"the delta's sections do not fill its {total} bytes", subject="delta")
    if header.method == "subtract" and old_size != new_size:
        raise MalformedError("a delta by subtraction needs files of one length", subject="delta")
    return header


def apply(header: Header, old: ReadAt, control: Read, diff: Read, extra: Read) -> Iterator[bytes]:
    """Apply a patch, and yield the new file in pieces of at most `CHUNK` bytes, `header.new_size` bytes in all.

    Args:
        header: of the patch.
        old: reads the old file at a place.
        control: reads the section of instructions.
        diff: reads the section of differences.
        extra: reads the section of new bytes.

    Raises:
        MalformedError: the patch ends early, reads outside the old file, or makes more than it says.
    """
    if header.method == "whole":
        pieces = _taken(extra, header.new_size)
    elif header.method == "subtract":
        pieces = _added(old, diff, 0, header.new_size, header.old_size)
    else:
        pieces = _bsdiff(header, old, control, diff, extra)
    made = 0
    for piece in pieces:
        made += len(piece)
        if made > header.new_size:
            raise MalformedError("the delta makes more bytes than it says", subject="delta")
        yield piece
    if made != header.new_size:
        raise MalformedError(f"the delta makes {made} of {header.new_size} bytes", subject="delta")


def _bsdiff(header: Header, old: ReadAt, control: Read, diff: Read, extra: Read) -> Iterator[bytes]:
    place, left, idle = 0, header.new_size, False
    while left > 0:
        triple = _exactly(control, _TRIPLE.size)
        mixed, fresh, move = _TRIPLE.unpack(triple)
        # A triple that makes nothing may move once; a chain of them could go on for ever.
        if mixed < 0 or fresh < 0 or mixed + fresh > left or (idle and mixed + fresh == 0):
            raise MalformedError("the delta's control makes no sense", subject="delta")
        idle = mixed + fresh == 0
        yield from _added(old, diff, place, mixed, header.old_size)
        yield from _taken(extra, fresh)
        left -= mixed + fresh
        place += mixed + move


def _added(old: ReadAt, diff: Read, start: int, count: int, size: int) -> Iterator[bytes]:
    """`count` bytes of the old file from `start` on, each with a byte of `diff` added mod 256."""
    if count and not 0 <= start <= start + count <= size:
        raise MalformedError("the delta reads outside the old file", subject="delta")
    for offset in range(0, count, CHUNK):
        length = min(CHUNK, count - offset)
        before = np.frombuffer(old(start + offset, length), np.uint8)
        if len(before) != length:
            raise MalformedError("the old file is shorter than the delta says", subject="delta")
        change = np.frombuffer(_exactly(diff, length), np.uint8)
        yield (before + change).tobytes()


def _taken(extra: Read, count: int) -> Iterator[bytes]:
    for offset in range(0, count, CHUNK):
        yield _exactly(extra, min(CHUNK, count - offset))


def _exactly(read: Read, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        piece = read(count - len(found))
        if not piece:
            raise MalformedError("the delta ends early", subject="delta")
        found += piece
    return bytes(found)

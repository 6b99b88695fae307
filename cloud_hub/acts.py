"""The acts in the journal, as values: each forbids something for ever. See `journal`."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct


class DeviceRevoked(Struct, frozen=True, kw_only=True, tag="device-revoked"):
    """A device's access has ended. `certificates` are serial and end of those that the broker must refuse, `tokens` the
    claim tokens that it came with: a database that never heard of the device must not let it in either."""

    device: str
    key_fingerprint: str
    public_key: str
    certificates: tuple[tuple[str, float], ...] = ()
    tokens: tuple[str, ...] = ()


class TokenEnded(Struct, frozen=True, kw_only=True, tag="token-ended"):
    """A token was revoked or deleted."""

    token: str


class ReleaseWithdrawn(Struct, frozen=True, kw_only=True, tag="release-withdrawn"):
    """A release is forbidden for ever."""

    model: str
    number: int


class FloorRaised(Struct, frozen=True, kw_only=True, tag="floor-raised"):
    """Releases below are forbidden for ever."""

    model: str
    min_release: int


class NumberTaken(Struct, frozen=True, kw_only=True, tag="number-taken"):
    """A release number has, or may have, a body."""

    model: str
    number: int


class RolloutEnded(Struct, frozen=True, kw_only=True, tag="rollout-ended"):
    """A rollout was halted or aborted: nothing acts after it, and nobody is sent to its release by it."""

    rollout: str
    state: str
    reason: str = ""


Act = DeviceRevoked | TokenEnded | ReleaseWithdrawn | FloorRaised | NumberTaken | RolloutEnded


class Entry(Struct, frozen=True, kw_only=True):
    """One object of the journal."""

    number: int
    previous: str
    at: float
    act: Act


class Position(NamedTuple):
    """Number and SHA-256 (hex) of an entry; 0 for none."""

    number: int
    digest: str

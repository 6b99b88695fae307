"""Samples that the hub asks for, as after an alarm: drawn over time and within a budget of their own. Pure.

The period is cut into as many slots as samples are wanted, short ones at first and longer ones later: slot k of n ends
after (k/n)³ of the period, so a tenth of the samples is there after a thousandth of it, and half after an eighth. Of
each slot one request is kept at most, drawn uniformly from the slot's, so that the frames of a video stream are not all
of one moment. Every second slot draws from all requests ("random"), the others from those worth more to whoever labels:
disagreeing and uncertain ones, else one that may be outlying; a slot without any such gives nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from edge_agent.errors import UsageError

SAMPLES = 100
MAX_BYTES = 4 << 20
PERIOD_S = 6 * 3600.0
MOST_SAMPLES = 10_000
MOST_BYTES = 1 << 30
MOST_PERIOD_S = 30 * 86_400.0
SLACK_S = 60.0  # by which a clock may go back before the period begins again

Place = Literal["random", "valued", "candidate"]
T = TypeVar("T")


class Want(Struct, frozen=True, kw_only=True):
    """A wish of the hub for samples, and what has come of it. `begun` is None before the first request."""

    model: str
    samples: int
    max_bytes: int
    until: float
    begun: float | None = None
    kept: int = 0
    bytes: int = 0


def read_want(arguments: Mapping[str, Any], now: float) -> Want:
    """The want in a command's arguments: `model`, `count`, `max_bytes`, `seconds`.

    Raises:
        UsageError: a number that is none, or out of its bounds.
    """
    return Want(
        model=str(arguments.get("model", "")),
        samples=int(_number(arguments, "count", SAMPLES, 0, MOST_SAMPLES)),
        max_bytes=int(_number(arguments, "max_bytes", MAX_BYTES, 0, MOST_BYTES)),
        until=now + _number(arguments, "seconds", PERIOD_S, 0, MOST_PERIOD_S),
    )


class Draw(Generic[T]):
    """One want at work. `rng` is uniform in [0, 1); times are Unix seconds."""

    def __init__(self, want: Want, rng: Callable[[], float]) -> None:
        self.want = want
        self._rng = rng
        self._slot = -1
        self._seen: dict[Place, float] = {}
        self._held: dict[Place, T] = {}

    def over(self, now: float) -> str:
        """Return why nothing more is kept; empty while something may be."""
        if self.want.kept >= self.want.samples:
            return "all samples are there"
        if now >= self.want.until:
            return "its time is over"
        return ""

    def place(self, now: float, *, valued: bool, weight: float = 1.0) -> Place | None:
        """Choose the place where a request is kept, if it is; the caller then `hold`s it.

        Args:
            now: after `due` was asked for the same moment.
            valued: it is uncertain, or the cloud disagrees.
            weight: for how many requests it stands.
        """
        if self.over(now):
            return None
        if self.want.begun is None:
            self.want = replace(self.want, begun=now)
        slot = self._slot_at(now)
        self._slot = slot
        place: Place = "random" if slot % 2 == 0 else "valued" if valued else "candidate"
        seen = self._seen[place] = self._seen.get(place, 0.0) + weight
        return place if self._rng() * seen < weight else None

    def hold(self, place: Place, request: T) -> None:
        """Keep a request in its slot, in the place of the one before."""
        self._held[place] = request

    def due(self, now: float, size: Callable[[T], int]) -> list[T]:
        """Take what a slot that is over has drawn: one request at most, if its bytes are still to be had."""
        if not self._seen or (not self.over(now) and self._slot_at(now) == self._slot):
            return []
        held, self._held, self._seen = self._held, {}, {}
        for place in ("random", "valued", "candidate"):
            request = held.get(place)
            if request is not None:
                bytes_ = self.want.bytes + size(request)
                if bytes_ > self.want.max_bytes:
                    return []
                self.want = replace(self.want, kept=self.want.kept + 1, bytes=bytes_)
                return [request]
        return []

    def _slot_at(self, now: float) -> int:
        want, begun = self.want, self.want.begun
        if begun is None:
            return 0
        if now < begun - SLACK_S:  # the clock went back: as much time as there was
            want = self.want = replace(want, begun=now, until=now + want.until - begun)
            begun = now
        share = (now - begun) / max(want.until - begun, 1e-9)
        return int(want.samples * min(max(share, 0.0), 1.0) ** (1 / 3))


def _number(arguments: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = arguments.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise UsageError(f"send-samples: {name} is {value!r}", hint=f"a number from {least:g} to {most:g}")
    return min(value, most)

"""A circuit breaker as a value: no clock, no lock, no I/O.

Closed while calls succeed; open after `failures` in a row, for `reset_s` seconds; then one call at a
time may probe, and its outcome closes or opens it again. Source: Nygard, "Release It!", 2007.

An endpoint that says "too busy, come back in a second" is not dead: such an answer closes the breaker
and is waited for, apart from it.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

Word = Literal["", "breaker-open", "cloud-busy", "cloud-budget"]


class Breaker(Struct, frozen=True):
    """`opened_at` is a monotonic time in seconds, None while closed; `probing` while a probe is out.

    Until `busy_until` (monotonic, seconds) the endpoint asked to be left alone.
    """

    failures: int = 0
    opened_at: float | None = None
    probing: bool = False
    busy_until: float = 0.0


def blocked(breaker: Breaker, now: float, reset_s: float) -> Word:
    """Return why no call may start now; empty when one may.

    Args:
        breaker: the model's.
        now: monotonic, seconds.
        reset_s: seconds from opening to the first probe.
    """
    if now < breaker.busy_until:
        return "cloud-busy"
    if breaker.opened_at is None or (not breaker.probing and now - breaker.opened_at >= reset_s):
        return ""
    return "breaker-open"


def wait_s(breaker: Breaker, now: float, reset_s: float) -> float:
    """Return the seconds until a call may start again, as far as that is known. Args as `blocked`."""
    opens = breaker.opened_at + reset_s if breaker.opened_at is not None else 0.0
    return max(0.0, breaker.busy_until - now, opens - now)


def started(breaker: Breaker) -> tuple[Breaker, bool]:
    """After a call started that `blocked` let through; and whether it is the probe of an open breaker."""
    probe = breaker.opened_at is not None
    return (msgspec.structs.replace(breaker, probing=True) if probe else breaker), probe


def answered(breaker: Breaker, busy_until: float = 0.0) -> Breaker:
    """After the endpoint answered, whatever it said; until `busy_until` (monotonic) it wants to be left alone."""
    return Breaker(busy_until=max(busy_until, breaker.busy_until))


def failed(breaker: Breaker, now: float, limit: int, *, probe: bool = False) -> Breaker:
    """Count a call that failed or came too late.

    A call that began before the breaker opened says nothing new: it neither ends a probe nor prolongs the pause.

    Args:
        breaker: the state before.
        now: monotonic, seconds.
        limit: failures in a row at which it opens.
        probe: the call was the probe of an open breaker, which stays open.
    """
    if breaker.opened_at is not None and not probe:
        return breaker
    failures = breaker.failures + 1
    opened_at = now if probe or failures >= limit else None
    return Breaker(failures, opened_at, busy_until=breaker.busy_until)

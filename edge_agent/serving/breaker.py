"""A circuit breaker as a value: no clock, no lock, no I/O.

Closed while calls succeed; open after `failures` in a row, for `reset_s` seconds; then one call at a
time may probe, and its outcome closes or opens it again. Source: Nygard, "Release It!", 2007.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct


class Breaker(Struct, frozen=True):
    """`opened_at` is a monotonic time in seconds, None while closed; `probing` while a probe is out."""

    failures: int = 0
    opened_at: float | None = None
    probing: bool = False


def allows(breaker: Breaker, now: float, reset_s: float) -> bool:
    """Whether a call may start at `now`."""
    if breaker.opened_at is None:
        return True
    return not breaker.probing and now - breaker.opened_at >= reset_s


def started(breaker: Breaker) -> Breaker:
    """After a call started that `allows` let through."""
    return breaker if breaker.opened_at is None else msgspec.structs.replace(breaker, probing=True)


def succeeded(breaker: Breaker) -> Breaker:
    """After a call succeeded."""
    return Breaker()


def failed(breaker: Breaker, now: float, limit: int) -> Breaker:
    """After a call failed or came too late; opens at `limit` failures in a row, or when a probe failed."""
    failures = breaker.failures + 1
    if breaker.opened_at is not None or failures >= limit:
        return Breaker(failures, now)
    return Breaker(failures)

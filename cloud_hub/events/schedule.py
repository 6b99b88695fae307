"""The times at which a delivery is tried again, and the end of its tries. Pure.

Pauses grow from seconds to hours, each by a random fifth shorter or longer, so that a target that comes back is not
met by all at once. A target that says how long to wait (Retry-After) is believed within an hour.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

PAUSES_S = (5.0, 30.0, 120.0, 600.0, 3600.0, 3 * 3600.0, 8 * 3600.0)
JITTER = 0.2
LONGEST_WAIT_S = 3600.0  # that a target may ask for
LIFE_S = 86_400.0  # after which nobody is told any more: what a hub restored from a backup finds is old
GONE = 410


class AttemptResult(Struct, frozen=True, kw_only=True):
    """The result of one try: the status of the answer (0: none came), the fault, and the wait it asks for.

    `status` is that of HTTP, or a broker's reason to refuse; `arrived` says that a broker has acknowledged it.
    """

    status: int = 0
    error: str = ""
    arrived: bool = False
    retry_after_s: float = 0.0


class DeliveryState(Struct, frozen=True):
    """The present state of a delivery; `next_at` matters while it waits."""

    state: Literal["waiting", "delivered", "dead"]
    next_at: float
    error: str = ""


def judge_attempt(
    outcome: AttemptResult, *, tries: int, most: int, expires_at: float, now: float, chance: float
) -> DeliveryState:
    """Judge a delivery after a try.

    Args:
        tries: how many there were, this one included.
        most: after so many it is dead.
        expires_at: nothing is sent later (Unix seconds).
        chance: evenly drawn from 0 to 1.
    """
    if outcome.arrived or (not outcome.error and 200 <= outcome.status < 300):  # a broker refuses with any number
        return DeliveryState("delivered", now, outcome.error)
    error = outcome.error or f"it answered {outcome.status}"
    if outcome.status == GONE:
        return DeliveryState("dead", now, f"{error}: it wants no more")
    next_at = now + max(retry_pause_s(tries, chance), min(outcome.retry_after_s, LONGEST_WAIT_S))
    if tries >= most:
        return DeliveryState("dead", now, f"{error}; given up after {tries} tries")
    if next_at > expires_at:
        return DeliveryState("dead", now, f"{error}; given up after a day")
    return DeliveryState("waiting", next_at, error)


def retry_pause_s(tries: int, chance: float) -> float:
    """Seconds to wait after the try with this number, from 1 on; `chance` is evenly drawn from 0 to 1."""
    return PAUSES_S[min(tries, len(PAUSES_S)) - 1] * (1 + JITTER * (2 * chance - 1))

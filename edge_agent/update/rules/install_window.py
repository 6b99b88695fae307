"""Makes a new install wait though the network is there: the channel's window, and the day's byte budget."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from fleet.protocol.channel import Fetching
from fleet.protocol.window import opens_at

WORDS = ("outside-window", "budget-spent")


class Hold(Struct, frozen=True, kw_only=True):
    """The reason for which an install waits, and the end of its wait (seconds since 1970)."""

    reason: str
    detail: str
    hint: str
    until: float


class DayBudget(Protocol):
    """The day's byte budget, as `edge_agent.telemetry.budget.Budget` keeps it."""

    def left(self) -> int | None:
        """Bytes that a fetch may still receive today; None when there is no budget."""

    def renews_at(self) -> float:
        """Return the begin of the next budget, in seconds since 1970."""

    def count(self, *, down: int = 0) -> None:
        """Bytes that a fetch has received."""


class _Unlimited:
    def left(self) -> int | None:
        return None

    def renews_at(self) -> float:
        return 0.0

    def count(self, *, down: int = 0) -> None:
        """Nobody asks how many they were."""


UNLIMITED: DayBudget = _Unlimited()


def has_folder(mirrors: Sequence[str]) -> bool:
    """Return whether one of the mirrors costs no bytes of the budget."""
    return any(url.startswith("file:") for url in mirrors)


def hold(fetching: Fetching, now: float, budget: DayBudget) -> Hold | None:
    """Return why a new install waits; None when it may begin.

    Args:
        fetching: the channel's window and daily budget.
        now: Unix seconds.
        budget: what of the day's bytes is left.
    """
    opens = opens_at(fetching.window, now)
    if opens > now:
        detail = f"installs begin in the window {fetching.window} UTC, which opens at {moment(opens)}"
        hint = "the channel's fetching.window says so; a return to a release that is here does not wait"
        return Hold(reason="outside-window", detail=detail, hint=hint, until=opens)
    left = budget.left()
    return spent(budget) if left is not None and left <= 0 else None


def spent(budget: DayBudget) -> Hold:
    """The byte budget is used up, or what this one model was given of it."""
    until = budget.renews_at()
    detail = f"today's byte budget is spent; the fetch goes on at {moment(until)}"
    if budget.left():
        detail = "this model's share of today's byte budget is used up; the next look shares out what is left"
    hint = "the channel's fetching.bytes_per_day limits it; metadata and reports have a reserve"
    return Hold(reason="budget-spent", detail=detail, hint=hint, until=until)


def moment(seconds: float) -> str:
    """A time in UTC, to the minute."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%MZ")

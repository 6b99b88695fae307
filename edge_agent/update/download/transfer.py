"""Bounds the bytes of one fetch: their speed, their cost, and the longest silence; and tells who wants to hear."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.errors import FetchError
from edge_agent.update.download.fetch import Progress
from edge_agent.update.download.throttle import DownloadPace


class Budgeted:
    """The bytes that one fetch may still receive over the network; None is no limit."""

    def __init__(self, allowance: int | None) -> None:
        self._left = allowance

    def check(self) -> None:
        """Raise FetchError with the word `budget-spent` when nothing is left."""
        if self._left is not None and self._left <= 0:
            raise FetchError("today's byte budget is spent", reason="budget-spent", hint="the fetch goes on tomorrow")

    def spend(self, count: int) -> None:
        """Count bytes that are here; raises like `check`, so that at most one piece is received too much."""
        if self._left is not None:
            self._left -= count
            self.check()


@dataclass(frozen=True)
class Transfer:
    """`progress` hears how many bytes came just now; nothing may come for `gap_timeout_s`; `now` is monotonic."""

    pace: DownloadPace
    progress: Progress
    budget: Budgeted
    gap_timeout_s: float = 30.0
    now: Callable[[], float] = time.monotonic

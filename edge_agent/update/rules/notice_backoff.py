"""Decides how soon a notice may end what is under way.

The broker is not trusted, and a connection may flap: whoever floods a device with notices must neither keep
it from fetching nor have it look without a pause. The first notices are followed at once, so that a halt is; and
one that brings a new version of the channel, which only the hub can sign, does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FREE = 3  # notices in a row, of nothing new, that are followed at once
MOST_S = 60.0  # the longest that a notice may have to wait; after as much quiet, all is forgotten


class NoticeBackoff:
    """Counts the looks that a notice has brought about, one shortly after the other."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._looks = 0
        self._last = float("-inf")

    def noticed(self) -> None:
        """A notice brings about the look that follows."""
        now = self._now()
        self._looks = self._looks + 1 if now - self._last < MOST_S else 1
        self._last = now

    def worthwhile(self) -> None:
        """The look found something new: whoever gave notice was right."""
        self._looks = 0

    @property
    def patience_s(self) -> float:
        """Seconds that a look waits for, and then may use, before the next notice counts."""
        if self._looks <= FREE or self._now() - self._last >= MOST_S:
            return 0.0
        return float(min(2 ** (self._looks - FREE - 1), MOST_S))

"""The clock's credibility: the kernel's word, and the latest moment that is known to have passed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

from edge_agent.host.durable import write_durably

EPOCH = 0.0
LAST = 253_402_300_800.0  # the year 10000, which no date of metadata reaches
FILE = "time-floor"
_TIME_ERROR = 5  # linux/timex.h: STA_UNSYNC among others
_TIMEX_BYTES = 512  # more than a struct timex has on any machine (208 on 64 bits)


def synchronised(adjtimex: Callable[[ctypes.Array[ctypes.c_char]], int] | None = None) -> bool:
    """Return whether the kernel's clock follows a time server; true as well where the kernel does not say.

    `adjtimex(2)` with a request of zeros changes nothing; it gives TIME_ERROR for a clock that is set by nobody.
    """
    try:
        call = adjtimex or ctypes.CDLL(None).adjtimex
        return call(ctypes.create_string_buffer(_TIMEX_BYTES)) != _TIME_ERROR
    except (OSError, AttributeError):
        return True


class TimeFloor:
    """The latest moment that fresh signed metadata proves to have passed; a clock behind it is wrong."""

    def __init__(self, path: Path, *, slack_s: float = 3600.0) -> None:
        self.path, self.slack_s = path, slack_s
        try:
            self.value = float(path.read_text())
        except (FileNotFoundError, ValueError):
            self.value = EPOCH
        if not EPOCH <= self.value < LAST:  # a damaged file, not a moment
            self.value = EPOCH

    def trusts(self, now: float) -> bool:
        """Return whether a clock that says `now` can be right."""
        return now >= self.value - self.slack_s

    def raise_to(self, now: float) -> None:
        """Remember `now`, when it is later."""
        if now > self.value:
            write_durably(self.path, f"{int(now)}".encode())  # rounded down: it must have passed
            self.value = now

"""Whether this device's clock can be right: the latest moment that fresh signed metadata was seen at."""

from __future__ import annotations

from pathlib import Path

from edge_agent.durable import write_durably

EPOCH = 0.0
LAST = 253_402_300_800.0  # the year 10000, which no date of metadata reaches
FILE = "time-floor"


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
        """Whether a clock that says `now` can be right."""
        return now >= self.value - self.slack_s

    def raise_to(self, now: float) -> None:
        """Remember `now`, when it is later."""
        if now > self.value:
            write_durably(self.path, f"{int(now)}".encode())  # rounded down: it must have passed
            self.value = now

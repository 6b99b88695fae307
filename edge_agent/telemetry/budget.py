"""Bytes sent and received today, kept over restarts; what may still be spent by kind of traffic.

5 % of a day's budget is reserved for metadata, reports and receipts, so that a spent budget cannot
block a halt. Days are UTC, by the device's clock; one that jumps about costs at most the rest of a day.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_agent.telemetry.database import Database, set_fact
from fleet.protocol.durations import DAY_S

RESERVE = 0.05


class Budget:
    """A counter over the agent's database; `save` makes it durable."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self.limit = 0  # bytes per day, 0: no budget
        self.up = int(database.fact("bytes-up", "0"))
        self.down = int(database.fact("bytes-down", "0"))
        # The day of what is spent, the bytes, and the day from which the clock jumped back (0: it did not).
        self._day, self._spent, self._back_from = map(int, f"{database.fact('budget', '0:0')}:0".split(":")[:3])
        self._saved = self._state()

    def count(self, *, up: int = 0, down: int = 0) -> None:
        """Add bytes that were sent or received."""
        with self._lock:
            self._turn()
            self.up += up
            self.down += down
            self._spent += up + down

    def allows(self, size: int, *, reserved: bool = False) -> bool:
        """Return whether `size` more bytes fit today; `reserved` traffic may use the last 5 %."""
        with self._lock:
            self._turn()
            if not self.limit:
                return True
            ceiling = self.limit if reserved else self.limit * (1 - RESERVE)
            return self._spent + size <= ceiling

    def left(self) -> int | None:
        """Bytes that a fetch may still receive today, beside the reserve; None when there is no budget."""
        with self._lock:
            self._turn()
            return max(0, int(self.limit * (1 - RESERVE)) - self._spent) if self.limit else None

    def renews_at(self) -> float:
        """Return the begin of the next day's budget, in seconds since 1970."""
        with self._lock:
            self._turn()
            return float((self._day + 1) * DAY_S)

    def save(self) -> None:
        """Write the counters when they changed; raises SpoolError when the disk refuses."""
        with self._lock:
            state = self._state()
        if state == self._saved:
            return
        with self._database.transaction() as connection:
            for name, value in zip(("bytes-up", "bytes-down", "budget"), state, strict=True):
                set_fact(connection, name, value)
        self._saved = state

    def _state(self) -> tuple[str, str, str]:
        return str(self.up), str(self.down), f"{self._day}:{self._spent}:{self._back_from}"

    def _turn(self) -> None:
        day = int(self._clock() // DAY_S)
        if day < self._day:
            # Nothing is handed out anew, also not when the clock returns to the day that it left. But one that had
            # run ahead must not lock fetching until that day has really come: the days from here on count.
            self._back_from, self._day = self._day, day
        elif day > self._day:
            if day != self._back_from:
                self._spent = 0
            self._back_from, self._day = 0, day

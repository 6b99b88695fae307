"""Bytes sent and received today, kept over restarts; what may still be spent by kind of traffic.

5 % of a day's budget is reserved for metadata, reports and receipts, so that a spent budget cannot
block a halt. Days are UTC.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_agent.reporting.spool import Database, set_fact

RESERVE = 0.05
DAY_S = 86_400


class Budget:
    """A counter over the agent's database; `save` makes it durable."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self.limit = 0  # bytes per day, 0: no budget
        self.up = int(database.fact("bytes-up", "0"))
        self.down = int(database.fact("bytes-down", "0"))
        day, _, spent = database.fact("budget", "0:0").partition(":")
        self._day, self._spent = int(day), int(spent)
        self._saved = (self.up, self.down)

    def count(self, *, up: int = 0, down: int = 0) -> None:
        """Add bytes that were sent or received."""
        with self._lock:
            self._turn()
            self.up += up
            self.down += down
            self._spent += up + down

    def allows(self, size: int, *, reserved: bool = False) -> bool:
        """Whether `size` more bytes fit today; `reserved` traffic may use the last 5 %."""
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
        """When the next day's budget begins, in seconds since 1970."""
        with self._lock:
            self._turn()
            return float((self._day + 1) * DAY_S)

    def save(self) -> None:
        """Write the counters when they changed; raises SpoolError when the disk refuses."""
        with self._lock:
            state = (self.up, self.down)
            text = f"{self._day}:{self._spent}"
        if state == self._saved:
            return
        with self._database.transaction() as connection:
            set_fact(connection, "bytes-up", str(state[0]))
            set_fact(connection, "bytes-down", str(state[1]))
            set_fact(connection, "budget", text)
        self._saved = state

    def _turn(self) -> None:
        day = int(self._clock() // DAY_S)
        # Only forward: a clock that jumps back must not hand out the same day's budget twice.
        if day > self._day:
            self._day, self._spent = day, 0

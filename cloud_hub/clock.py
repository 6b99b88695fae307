"""The hub's clock, and what to think of moments that lie ahead of it.

Among replicas on PostgreSQL the database's clock is everybody's: leases, schedules, expiries and signatures rest on
it, and a machine whose own clock is wrong does no harm. On SQLite all processes share one machine and its clock.

Any clock may run ahead and be set back. What was written meanwhile lies ahead then, and must not hold anything up
until that day comes: a lease, a date or a nonce that lies farther ahead than it could when it was made is over, and a
moment at which something has happened is now at the latest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

Clock = Callable[[], float]  # Unix seconds

log = logging.getLogger(__name__)
SLACK_S = 5.0  # a step back by which time servers set clocks is none that matters
JUMP_S = 3600.0  # ahead of the monotonic clock: a machine that got the right time, or a wrong one
MEASURE_S = 10.0  # between two looks at the database's clock


def lies_ahead(moment: float, now: float, longest_s: float = 0.0) -> bool:
    """Tell whether `moment` lies farther ahead of `now` than `longest_s`: a clock that ran ahead has written it."""
    return moment > now + longest_s + SLACK_S


class Jumps:
    """Measures the jumps of a clock from one look to the next, by a monotonic one. For one thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._last: tuple[float, float] | None = None

    def seen(self, now: float) -> float:
        """Seconds that it has jumped since the last look; 0 where it has not, or by less than `JUMP_S`."""
        here = now, self._monotonic()
        before, self._last = self._last or here, here
        ahead = (here[0] - before[0]) - (here[1] - before[1])
        return ahead if ahead > JUMP_S else 0.0


class DatabaseClock:
    """The time of PostgreSQL's machine: its distance from the monotonic clock is measured again and again.

    It is measured on connections that are taken from the pool anyhow, so asking for the time never waits. Before the
    first measurement it is the machine's own time.
    """

    def __init__(
        self, engine: Engine, *, wall: Clock = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._errors: type[Exception] = engine.dialect.loaded_dbapi.Error
        self._lock = threading.Lock()
        self._offset: float | None = None
        self._measured_at = 0.0
        event.listen(engine, "checkout", self._taken)

    def __call__(self) -> float:
        """Unix seconds."""
        offset = self._offset
        return self._wall() if offset is None else self._monotonic() + offset

    def _taken(self, connection: Any, record: object, proxy: object) -> None:
        """A connection was taken from the pool; whoever comes while another measures goes on without."""
        due = self._offset is None or self._monotonic() - self._measured_at >= MEASURE_S
        if due and self._lock.acquire(blocking=False):
            try:
                self._measure(connection)
            finally:
                self._lock.release()

    def _measure(self, connection: Any) -> None:
        before = self._monotonic()
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
                (found,) = cursor.fetchone()
            connection.rollback()  # the transaction begins with its first real statement
        except self._errors as error:
            log.warning("the database's clock cannot be read, the last distance holds: %s", error)
            return
        after = self._monotonic()
        self._offset, self._measured_at = float(found) - (before + after) / 2, after


def clock_of(engine: Engine) -> Clock:
    """The clock of a hub on this database."""
    return DatabaseClock(engine) if engine.dialect.name == "postgresql" else time.time

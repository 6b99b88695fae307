"""The outbox that survives power loss: numbered records, deleted only by the hub's receipt.

Numbers start at 1 and have no gaps. When the spool is full the *oldest* records give way, and the loss is counted and
told to the hub by `base`.

To the hub records are numbered within a `SpoolSeries`: what one process sent on one connection has an id of its own.
A card that was copied, or set back to an older image, goes on with records that the hub does not know under numbers
that it knows: under one id its receipts would delete them. The copy's next start has another id, and so
has what a machine writes after it was set back while it ran: `part` is called on each connection.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from typing import NamedTuple

from edge_agent.errors import SpoolError
from edge_agent.telemetry.database import Database, set_fact

log = logging.getLogger(__name__)

MAX_BYTES = 32 << 20


class SpoolRecord(NamedTuple):
    """One spooled record; `body` is MessagePack, `at` Unix seconds."""

    seq: int
    at: float
    kind: str
    body: bytes


class SpoolSeries(NamedTuple):
    """Records that one process first sent on one connection: the spool's numbers `first` to `last`, which the hub knows
    from 1 on.

    Where older records were given up untold, `first` is theirs: the hub counts them by `base`.
    """

    id: str
    first: int
    last: int

    def number(self, seq: int) -> int:
        """The hub's number of the spool's record `seq`."""
        return seq - self.first + 1

    def upto(self, committed: int) -> int:
        """The spool's number of the hub's `committed`."""
        return self.first + committed - 1


def _write_series(connection: sqlite3.Connection, series: list[SpoolSeries]) -> None:
    connection.execute("DELETE FROM series")
    connection.executemany("INSERT INTO series VALUES (?, ?)", [(one.first, one.id) for one in series])


class Spool:
    """Numbered records; what this process writes now is of the series `id`."""

    def __init__(self, database: Database, *, max_bytes: int = MAX_BYTES) -> None:
        self._database = database
        self._max_bytes = max_bytes
        row = database.rows("SELECT MIN(seq), MAX(seq), TOTAL(LENGTH(body)) FROM records")[0]
        self.top = max(int(str(row[1] or 0)), int(database.fact("top", "0")))
        self.base = int(str(row[0])) if row[0] is not None else self.top + 1
        self.lost = int(database.fact("lost", "0"))
        self._bytes = int(float(str(row[2])))
        self._began = self.top  # what is above it is this process's
        # Below `base` follows what was given up untold; files of before this fact say nothing of it.
        received = int(database.fact("received", str(self.base - 1)))
        self._received = max(min(received, self.base - 1), self.base - 1 - self.lost)
        self._series = self._begin()

    @property
    def id(self) -> str:
        """The series of what is appended now."""
        return self._series[-1].id

    @property
    def oldest(self) -> SpoolSeries:
        """The series of the first record that is held; the newest one when there is none."""
        return next(one for one in reversed(self._held()) if one.first <= self.base)

    def rename(self) -> SpoolSeries:
        """Give what is left of the oldest series another id: somebody else has used its numbers.

        Raises:
            SpoolError: the disk refused; it has the id that it had.
        """
        with self._database.lock:
            oldest = self.oldest
            named = SpoolSeries(secrets.token_hex(8), max(oldest.first, self._received + 1), oldest.last)
            self._store([named if one.first == oldest.first else one for one in self._series])
            return named

    def is_own(self, series: SpoolSeries) -> bool:
        """Return whether this process wrote of it: what it holds of others', copies of the file hold, too."""
        return series.last > self._began or series.id == self.id

    def part(self, sent: int) -> None:
        """Give what this process wrote above number `sent` a series of its own.

        Raises:
            SpoolError: the disk refused; the records have the numbers that they had.
        """
        with self._database.lock:
            newest = self._held()[-1]
            first = max(newest.first, sent + 1, self._began + 1)
            kept = [newest._replace(last=first - 1)] if max(self.base, newest.first) < first else []
            if not kept and first > newest.first:
                first = max(newest.first, self._received + 1)  # its end was given up: this one tells of it
            self._store([*self._series[:-1], *kept, SpoolSeries(secrets.token_hex(8), first, self.top)])

    def _store(self, series: list[SpoolSeries]) -> None:
        with self._database.transaction() as connection:
            _write_series(connection, series)
        self._series = series

    def _begin(self) -> list[SpoolSeries]:
        """A series for this process, behind those that still hold records; the last one goes on where a disk refuses.

        Files of 0.1 have one, whose id is a fact.
        """
        rows = self._database.rows("SELECT id, first FROM series ORDER BY first")
        known = [(str(name), int(str(first))) for name, first in rows] or [(self._database.fact("spool"), 1)]
        ends = [first - 1 for _, first in known[1:]] + [self.top]
        every = [SpoolSeries(name, first, end) for (name, first), end in zip(known, ends, strict=True)]
        held = [one for one in every if one.last >= max(one.first, self.base)]
        fresh = SpoolSeries(secrets.token_hex(8), self.top + 1, self.top)
        try:
            with self._database.transaction() as connection:
                _write_series(connection, [*held, fresh])
                set_fact(connection, "received", str(self._received))
        except SpoolError as error:
            log.warning("this process's records go on with the numbers of the last one: %s", error)
            return [*(one for one in held if one != every[-1]), every[-1]]
        return [*held, fresh]

    def _held(self) -> list[SpoolSeries]:
        *before, newest = self._series
        return [*before, newest._replace(last=self.top)]

    def fact(self, name: str) -> str:
        """A small value that was stored with a record; raises SpoolError when the disk refuses to say."""
        try:
            return self._database.fact(name)
        except sqlite3.Error as error:
            raise SpoolError(f"spool {self._database.path}: {error}", hint="check the disk") from error

    def keep(self, facts: dict[str, str]) -> None:
        """Store small values without a record; raises SpoolError when the disk refuses."""
        with self._database.transaction() as connection:
            for name, value in facts.items():
                set_fact(connection, name, value)

    def append(self, kind: str, body: bytes, at: float, facts: dict[str, str] | None = None) -> int:
        """Store one record durably, and `facts` with it, and return its number.

        Raises:
            SpoolError: the disk refused; nothing was stored.
        """
        with self._database.lock:  # the counters follow the file, whichever thread comes next
            with self._database.transaction() as connection:
                seq = self.top + 1
                connection.execute("INSERT INTO records VALUES (?, ?, ?, ?)", (seq, at, kind, body))
                base, size, lost = self._make_room(connection, seq, self._bytes + len(body))
                series = self._telling(base)
                if series != self._series:
                    _write_series(connection, series)
                # Survives the deletion of every record, so that a number is never used twice.
                for name, value in {**(facts or {}), "top": str(seq)}.items():
                    set_fact(connection, name, value)
            self.top, self.base, self._bytes, self.lost, self._series = seq, base, size, lost, series
            return seq

    def _telling(self, base: int) -> list[SpoolSeries]:
        """The series when the first record that is held is `base`.

        One that was given up to its end has no record left to tell of it. The next one has not been sent yet: it begins
        where the receipts end, so that its `base` tells of all; a copy of the file may have sent it under its old name.
        """
        held = [one for one in self._series[:-1] if one.last >= base] + self._series[-1:]
        gone = len(self._series) - len(held)
        if not gone or self._series[gone - 1].last <= self._received:
            return self._series
        first = max(self._series[0].first, self._received + 1)
        return [SpoolSeries(secrets.token_hex(8), first, held[0].last), *held[1:]]

    def _make_room(self, connection: sqlite3.Connection, newest: int, size: int) -> tuple[int, int, int]:
        base, lost = min(self.base, newest), self.lost
        while size > self._max_bytes and base < newest:
            row = connection.execute("SELECT LENGTH(body) FROM records WHERE seq = ?", (base,)).fetchone()
            connection.execute("DELETE FROM records WHERE seq = ?", (base,))
            size -= int(row[0]) if row else 0
            base, lost = base + 1, lost + 1
        if lost != self.lost:
            set_fact(connection, "lost", str(lost))
            log.warning("the spool is full: %d oldest records given up (%d in all)", lost - self.lost, lost)
        return base, size, lost

    def after(self, seq: int, limit: int) -> list[SpoolRecord]:
        """Up to `limit` records above number `seq`, in order."""
        rows = self._database.rows(
            "SELECT seq, at, kind, body FROM records WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit)
        )
        return [SpoolRecord(*row) for row in rows]  # type: ignore[arg-type]  # the schema's types

    def commit(self, committed: int, facts: dict[str, str] | None = None) -> int:
        """Delete everything up to `committed` (never above what exists) and store `facts` with it.

        Returns how many records were deleted.
        """
        with self._database.lock:
            upto = min(committed, self.top)
            with self._database.transaction() as connection:
                row = connection.execute(
                    "SELECT COUNT(*), TOTAL(LENGTH(body)) FROM records WHERE seq <= ?", (upto,)
                ).fetchone()
                connection.execute("DELETE FROM records WHERE seq <= ?", (upto,))
                received = max(self._received, upto)
                for name, value in {**(facts or {}), "received": str(received)}.items():
                    set_fact(connection, name, value)
            self._bytes -= int(row[1])
            self._received, self.base = received, max(self.base, upto + 1)
            return int(row[0])

    def __len__(self) -> int:
        return max(0, self.top + 1 - self.base)

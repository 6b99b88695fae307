"""The outbox that survives power loss: numbered records, deleted only by the hub's receipt.

SQLite in WAL mode with synchronous=FULL (the weakest setting that lost no acknowledged row under
dropped writes). Numbers start at 1 and have no gaps. When the spool is full the *oldest* records
give way, and the loss is counted and told to the hub by `base`. A damaged file is set aside, not
repaired.

To the hub records are numbered within a `Series`: what one process sent on one connection has an id of its own.
A card that was copied, or set back to an older image, goes on with records that the hub does not know under numbers
that it knows: under one id its receipts would delete them. The copy's next start has another id, and so
has what a machine writes after it was set back while it ran: `part` is called on each connection.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from edge_agent.errors import SpoolError

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS samples (id TEXT PRIMARY KEY, at REAL NOT NULL, model TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS samples_at ON samples (at);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS series (first INTEGER PRIMARY KEY, id TEXT NOT NULL);
"""
MAX_BYTES = 32 << 20
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Record(NamedTuple):
    """One spooled record; `body` is MessagePack, `at` Unix seconds."""

    seq: int
    at: float
    kind: str
    body: bytes


class Series(NamedTuple):
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


class Database:
    """One SQLite file of the agent, shared by spool, samples and budget; calls come from any thread.

    `refusal` is empty, or why the disk would not take the file and memory is used instead.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.refusal = ""
        try:
            self._connection = self._open(path)
        except sqlite3.DatabaseError as error:
            self._connection = self._instead(error)

    def _instead(self, error: sqlite3.DatabaseError) -> sqlite3.Connection:
        """A new file for a damaged one; for a disk that refuses (full, broken), memory.

        The agent must serve without its disk, too; what is reported meanwhile has a spool of its own.
        """
        cause: Exception = error
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in DAMAGE:
            try:
                self._set_aside(error)
                return self._open(self.path)
            except (sqlite3.DatabaseError, OSError) as again:
                cause = again
        self.refusal = str(cause)
        log.error("spool %s cannot be used (%s); until the next start, reports are kept in memory", self.path, cause)
        return self._open(":memory:")

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        path = self.path
        aside = path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}")
        log.error("spool %s is damaged (%s); set aside as %s, a new one starts", path, error, aside.name)
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.replace(aside.with_name(aside.name + suffix))

    def _open(self, where: Path | str) -> sqlite3.Connection:
        if isinstance(where, Path):
            _keep_private(where)
        connection = sqlite3.connect(where, check_same_thread=False, isolation_level=None, timeout=5.0)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA cache_size=-64")  # KiB; records pass through once, and it fills while they wait
            connection.executescript(SCHEMA)
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check failed")
            connection.execute("INSERT OR IGNORE INTO facts VALUES ('spool', ?)", (secrets.token_hex(8),))
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One atomic, durable step; raises SpoolError when the disk refuses it."""
        with self.lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise SpoolError(f"spool {self.path}: {error}", hint="check disk space and permissions") from error
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise SpoolError(f"spool {self.path}: {error}", hint="check disk space") from error
                raise

    def fact(self, name: str, default: str = "") -> str:
        """A small persistent value."""
        with self.lock:
            row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else default

    def rows(self, query: str, arguments: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """All rows of a read."""
        with self.lock:
            return self._connection.execute(query, arguments).fetchall()

    def close(self) -> None:
        """Close the file; the object must not be used afterwards."""
        with self.lock:
            self._connection.close()


def set_fact(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Write a small value inside a transaction."""
    connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def _write_series(connection: sqlite3.Connection, series: list[Series]) -> None:
    connection.execute("DELETE FROM series")
    connection.executemany("INSERT INTO series VALUES (?, ?)", [(one.first, one.id) for one in series])


def _keep_private(path: Path) -> None:
    """Samples are what applications asked about: nobody else reads them. SQLite's other files follow this one."""
    with suppress(OSError):  # SQLite says why a disk refuses
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:  # not opened: closing it would give up the locks of this process
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)


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
    def oldest(self) -> Series:
        """The series of the first record that is held; the newest one when there is none."""
        return next(one for one in reversed(self._held()) if one.first <= self.base)

    def rename(self) -> Series:
        """Give what is left of the oldest series another id: somebody else has used its numbers.

        Raises:
            SpoolError: the disk refused; it has the id that it had.
        """
        with self._database.lock:
            oldest = self.oldest
            named = Series(secrets.token_hex(8), max(oldest.first, self._received + 1), oldest.last)
            self._store([named if one.first == oldest.first else one for one in self._series])
            return named

    def is_own(self, series: Series) -> bool:
        """Whether this process wrote of it: what it holds of others', copies of the file hold, too."""
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
            self._store([*self._series[:-1], *kept, Series(secrets.token_hex(8), first, self.top)])

    def _store(self, series: list[Series]) -> None:
        with self._database.transaction() as connection:
            _write_series(connection, series)
        self._series = series

    def _begin(self) -> list[Series]:
        """A series for this process, behind those that still hold records; the last one goes on where a disk refuses.

        Files of 0.1 have one, whose id is a fact.
        """
        rows = self._database.rows("SELECT id, first FROM series ORDER BY first")
        known = [(str(name), int(str(first))) for name, first in rows] or [(self._database.fact("spool"), 1)]
        ends = [first - 1 for _, first in known[1:]] + [self.top]
        every = [Series(name, first, end) for (name, first), end in zip(known, ends, strict=True)]
        held = [one for one in every if one.last >= max(one.first, self.base)]
        fresh = Series(secrets.token_hex(8), self.top + 1, self.top)
        try:
            with self._database.transaction() as connection:
                _write_series(connection, [*held, fresh])
                set_fact(connection, "received", str(self._received))
        except SpoolError as error:
            log.warning("this process's records go on with the numbers of the last one: %s", error)
            return [*(one for one in held if one != every[-1]), every[-1]]
        return [*held, fresh]

    def _held(self) -> list[Series]:
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

    def _telling(self, base: int) -> list[Series]:
        """The series when the first record that is held is `base`.

        One that was given up to its end has no record left to tell of it. The next one has not been sent yet: it begins
        where the receipts end, so that its `base` tells of all; a copy of the file may have sent it under its old name.
        """
        held = [one for one in self._series[:-1] if one.last >= base] + self._series[-1:]
        gone = len(self._series) - len(held)
        if not gone or self._series[gone - 1].last <= self._received:
            return self._series
        first = max(self._series[0].first, self._received + 1)
        return [Series(secrets.token_hex(8), first, held[0].last), *held[1:]]

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

    def after(self, seq: int, limit: int) -> list[Record]:
        """Up to `limit` records above number `seq`, in order."""
        rows = self._database.rows(
            "SELECT seq, at, kind, body FROM records WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit)
        )
        return [Record(*row) for row in rows]  # type: ignore[arg-type]  # the schema's types

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

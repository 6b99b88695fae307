"""The agent's one SQLite file, for spool, samples and budget.

In WAL mode with synchronous=FULL (the weakest setting that lost no acknowledged row under dropped writes). A damaged
file is set aside, not repaired; where the disk takes none, memory stands in until the next start.
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

from edge_agent.errors import SpoolError

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS samples (id TEXT PRIMARY KEY, at REAL NOT NULL, model TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS samples_at ON samples (at);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS series (first INTEGER PRIMARY KEY, id TEXT NOT NULL);
"""
LAST_COMMAND = "last-command"  # a fact: the last command as it came, which proves its number to a restored hub
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


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


def _keep_private(path: Path) -> None:
    """Samples are what applications asked about: nobody else reads them. SQLite's other files follow this one."""
    with suppress(OSError):  # SQLite says why a disk refuses
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:  # not opened: closing it would give up the locks of this process
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)

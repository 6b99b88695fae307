"""The database engine, with the settings that SQLite needs to be safe among several processes."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from functools import partial
from typing import Any, Self

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session, create_engine

from cloud_hub.store.locks import Lock, hold_lock

PAUSED_S = 120  # transactions are short
WAIT_S = 30.0  # for a lock of SQLite's
BEGIN = "BEGIN IMMEDIATE"


class _Cursor(sqlite3.Cursor):
    """A cursor of a connection that takes its turn."""

    def execute(self, statement: str, parameters: Any = ()) -> Self:
        """Execute a statement; one that begins to write waits for its turn first."""
        if statement != BEGIN:
            return super().execute(statement, parameters)
        assert isinstance(self.connection, _Connection)
        self.connection.wait()
        try:
            return super().execute(statement)
        except BaseException:
            self.connection.leave()
            raise


class _Connection(sqlite3.Connection):
    """A connection that waits for its `turn` before it begins to write."""

    def __init__(self, *arguments: Any, turn: threading.Lock, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._turn, self._has_turn = turn, False

    def cursor(self, factory: Any = _Cursor) -> Any:
        """A cursor."""
        return super().cursor(factory)

    def wait(self) -> None:
        """Wait for the turn, which ends with the transaction. Who waits for too long asks SQLite, which says so."""
        self._has_turn = self._has_turn or self._turn.acquire(timeout=WAIT_S)

    def commit(self) -> None:
        """End the transaction, if there is one."""
        super().commit()
        self.leave()

    def rollback(self) -> None:
        """End the transaction, if there is one."""
        try:
            super().rollback()
        finally:
            self.leave()

    def close(self) -> None:
        """End the transaction, if there is one, and the connection."""
        try:
            super().close()
        finally:
            self.leave()

    def leave(self) -> None:
        """Let the next one have its turn."""
        if self._has_turn:
            self._has_turn = False
            self._turn.release()


def make_engine(url: str) -> Engine:
    """An engine for `sqlite:///…` or `postgresql+psycopg://…`.

    SQLite runs in WAL mode with foreign keys on, waits up to 30 s for a lock, and starts every
    transaction with BEGIN IMMEDIATE, so that a read-then-write never fails half way. A connection
    with the execution option `edgeloop_read` starts a plain one, which waits for no writer. Those of one
    engine wait for each other in line, and not by SQLite's own way, which is to look again ever less often.
    """
    if not url.startswith("sqlite"):
        engine = create_engine(url, pool_pre_ping=True)
        event.listen(engine, "connect", _configure_postgresql)
        event.listen(engine, "handle_error", _refuse_value)
        return engine
    # as many connections as the server has worker threads: a thread waits for a lock, never for the pool
    pool = {} if url == "sqlite://" else {"pool_size": 10, "max_overflow": 40}
    turn = threading.Lock()
    made = {"timeout": WAIT_S, "check_same_thread": False, "factory": partial(_Connection, turn=turn)}
    engine = create_engine(url, connect_args=made, **pool)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    event.listen(engine, "handle_error", _refuse_value)
    return engine


def _refuse_value(context: ExceptionContext) -> None:
    """Raise DataError for a value that no column can hold, whatever the driver says: SQLite's has a bare
    OverflowError for a number beyond 64 bits, both have UnicodeEncodeError for half a character."""
    error = context.original_exception
    if isinstance(error, OverflowError | UnicodeEncodeError):
        raise DataError(context.statement, context.parameters, error) from error


def lock_publishing(session: Session) -> None:
    """Hold the publishing lock until the session's transaction ends, whatever process or replica asks.

    SQLite's BEGIN IMMEDIATE is that lock already; PostgreSQL takes an advisory one.
    """
    hold_lock(session.connection(), Lock.PUBLISHING)


def lock_name(session: Session, name: str) -> None:
    """Hold the lock called `name` until the session's transaction ends: for what has no row yet to be locked.

    A row that exists is locked by `session.get(…, with_for_update=True)`. SQLite's BEGIN IMMEDIATE is every lock.
    """
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    hold_lock(session.connection(), key)


def is_shared(engine: Engine) -> bool:
    """Tell whether several hubs may work on this database; SQLite's hub directory has one owner."""
    return bool(engine.dialect.name == "postgresql")


def _configure_postgresql(connection: Any, record: object) -> None:
    """End the transaction of a process that is paused in the midst of it: else nobody could write its rows."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{PAUSED_S}s'")
    connection.commit()


def _configure_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # we emit BEGIN ourselves
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("edgeloop_read", False)
    connection.exec_driver_sql("BEGIN" if reading else BEGIN)


def is_outage(error: BaseException) -> bool:
    """Tell whether the database (or this machine) failed, and not the value: the write is to be tried again later."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, OperationalError | InterfaceError | PoolTimeoutError | MemoryError | OSError)

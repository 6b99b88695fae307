"""A watch for commits to the database since the last look: one look costs a statement, whatever is stored.

A mark that differs from the one before says so. It may differ for nothing (on PostgreSQL a transaction that only began,
or one of another database); it is never the same after a commit that could be seen.
"""

from __future__ import annotations

import threading

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

UNKNOWN = ""  # the database does not answer


class ChangeWatcher:
    """Looks at one database; call `close` when nobody wants to know any more."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(edgeloop_read=True)
        self._lock = threading.Lock()
        self._kept: Connection | None = None

    def mark(self) -> str:
        """The mark of now, or `UNKNOWN`."""
        with self._lock:
            try:
                return self._sqlite() if self._engine.dialect.name == "sqlite" else self._postgresql()
            except SQLAlchemyError:
                self._drop()
                return UNKNOWN

    def close(self) -> None:
        """Give the connection back, if one is held."""
        with self._lock:
            self._drop()

    def _sqlite(self) -> str:
        """SQLite tells a connection how often others have committed: it must be the same one every time."""
        if self._kept is None:
            self._kept = self._engine.connect()
        number = self._kept.exec_driver_sql("PRAGMA data_version").scalar_one()
        self._kept.rollback()
        return f"{id(self._kept)}:{number}"

    def _postgresql(self) -> str:
        """The snapshot names every transaction that can be seen. Those that only read are in none."""
        with self._engine.connect() as connection:
            return str(connection.execute(text("SELECT pg_current_snapshot()::text")).scalar_one())

    def _drop(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

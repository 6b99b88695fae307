"""The locks of a whole database: what is done by one hub, or by one kind of writer, at a time.

SQLite's BEGIN IMMEDIATE is every one of them; PostgreSQL takes advisory locks, which end with their transaction.
"""

from __future__ import annotations

from enum import Enum, unique

from sqlalchemy import Connection, text


@unique
class Lock(Enum):
    """Every advisory lock with a number of its own: who holds one keeps nobody from another."""

    PUBLISHING = 0x_E0_6E_10_09
    MIGRATING = 0x_E0_6E_10_0A
    WINDOWS = 0x_E0_6E_10_0B


def hold_lock(connection: Connection, lock: Lock | int, *, shared: bool = False) -> None:
    """Hold a lock, waiting for it, until the connection's transaction ends.

    Args:
        connection: of an open transaction.
        lock: a number is a hash of what has no number here (`engine.lock_name`).
        shared: beside others that hold it so, and nobody who holds it alone.
    """
    if connection.dialect.name != "postgresql":
        return
    kind = "_shared" if shared else ""
    key = lock.value if isinstance(lock, Lock) else lock
    connection.execute(text(f"SELECT pg_advisory_xact_lock{kind}(:key)"), {"key": key})

"""Windows in the order of their numbers, though several hubs write them at the same moment.

A row's number is given when it is inserted, and seen when its transaction is committed: on PostgreSQL a reader that
goes by numbers could pass one that is committed late. Each writer therefore holds a lock that writers share until it is
done, and a reader takes it alone for a moment, before it looks: then there is no number below the newest one that is
yet to come.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Engine, func, text
from sqlmodel import Session, col, select

from cloud_hub.store.locks import Lock, hold_lock
from cloud_hub.store.tables import WindowRow, WindowSum
from fleet.protocol.bounds import LARGEST

PATIENCE = "10s"


def entering(session: Session) -> None:
    """Say that windows are written until this transaction ends."""
    hold_lock(session.connection(), Lock.WINDOWS, shared=True)


def settled(engine: Engine) -> int:
    """The number up to which no window is yet to come; 0 without any. To be called outside of transactions.

    It waits for those who are writing now.

    Raises:
        OperationalError: one of them takes longer than `PATIENCE`; nobody else is kept waiting for it.
    """
    postgres = engine.dialect.name == "postgresql"
    with Session(engine if postgres else engine.execution_options(edgeloop_read=True)) as session:
        if postgres:
            session.connection().execute(text(f"SET LOCAL lock_timeout = '{PATIENCE}'"))
            hold_lock(session.connection(), Lock.WINDOWS)
        return session.exec(select(func.max(WindowRow.id))).one() or 0


def newest_window(session: Session, model: str, upto: int = LARGEST) -> int:
    """Return the number of the model's newest window, of those up to a number; 0 without any.

    Args:
        session: an open one.
        model: its name.
        upto: the highest number that counts.
    """
    of_it = (WindowRow.model == model, col(WindowRow.id) <= upto)
    return session.exec(select(func.max(WindowRow.id)).where(*of_it)).one() or 0


def sums_before(
    session: Session, model: str, release: int, devices: Collection[str], moment: float, most: int
) -> list[WindowSum]:
    """Return the newest sums of a release's windows that ended before a moment (Unix seconds): windows themselves
    are kept for a few days only. Of all devices where none is named.

    Args:
        session: an open one.
        model: its name.
        release: its number.
        devices: their ids; empty for all.
        moment: Unix seconds.
        most: the number of sums.
    """
    query = select(WindowSum).where(WindowSum.model == model, WindowSum.release == release)
    query = query.where(col(WindowSum.ended_at) <= moment)
    if devices:
        query = query.where(col(WindowSum.device_id).in_(sorted(devices)))
    return list(session.exec(query.order_by(col(WindowSum.ended_at).desc()).limit(most)))

"""Reading the audit log; `Hub.audit` writes it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from cloud_hub.store.tables import AuditEntry


def entries(session: Session, *, after: int, limit: int) -> Sequence[AuditEntry]:
    """At most `limit` entries in their order, from those after the id `after` on."""
    statement = select(AuditEntry).where(col(AuditEntry.id) > after).order_by(col(AuditEntry.id)).limit(limit)
    return session.exec(statement).all()

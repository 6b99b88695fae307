"""Reading the audit log; `Hub.audit` writes it."""

from __future__ import annotations

from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.store.tables import AuditEntry
from fleet.api.audit import AuditPage, AuditRecord


def list_records(hub: Hub, *, after: int, limit: int) -> AuditPage:
    """At most `limit` records in their order, from those after the id `after` on."""
    wanted = select(AuditEntry).where(col(AuditEntry.id) > after).order_by(col(AuditEntry.id)).limit(limit + 1)
    with hub.reading() as session:
        records = [AuditRecord.model_validate(vars(row)) for row in session.exec(wanted)]
    return AuditPage(items=records[:limit], next=records[limit - 1].id if len(records) > limit else None)

"""The audit log: who did what."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlmodel import col, select

from cloud_hub.routes.deps import HubDep, Viewer, page
from cloud_hub.store.tables import AuditEntry

router = APIRouter(prefix="/api/v1/audit", tags=["audit"])


@router.get("")
def list_entries(
    hub: HubDep, caller: Viewer, after: int = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 200
) -> dict[str, Any]:
    """Entries in their order, from `after` (an entry's id) on."""
    statement = select(AuditEntry).where(col(AuditEntry.id) > after).order_by(col(AuditEntry.id)).limit(limit + 1)
    with hub.reading() as session:
        rows = session.exec(statement).all()
    more = len(rows) > limit
    return page([row.model_dump() for row in rows[:limit]], rows[limit - 1].id if more else None)

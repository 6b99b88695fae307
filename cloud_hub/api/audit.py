"""The audit log: who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from cloud_hub.api.access import HubDep, Viewer
from cloud_hub.store import audit_log
from fleet.api.audit import AuditPage, AuditRecord
from fleet.api.types import Int64

router = APIRouter(prefix="/api/v1/audit", tags=["audit"])


@router.get("")
def list_entries(
    hub: HubDep,
    caller: Viewer,
    after: Annotated[Int64, Query()] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> AuditPage:
    """Entries in their order, from `after` (an entry's id) on."""
    with hub.reading() as session:
        rows = audit_log.entries(session, after=after, limit=limit + 1)
    records = [AuditRecord.model_validate(vars(row)) for row in rows[:limit]]
    return AuditPage(items=records, next=records[-1].id if len(rows) > limit else None)

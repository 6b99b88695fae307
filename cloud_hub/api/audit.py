"""The audit log: who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from cloud_hub.api.access import HubDep, Viewer
from cloud_hub.identity import audit_log
from fleet.api.audit import AuditPage
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
    return audit_log.list_records(hub, after=after, limit=limit)

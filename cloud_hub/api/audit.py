"""The audit log: who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from cloud_hub.api.access import HubDep, Viewer
from cloud_hub.api.params import LONGEST_PAGE, PAGE
from cloud_hub.identity import audit_log
from fleet.api.audit import AuditFilter, AuditPage
from fleet.api.types import Int64

router = APIRouter(prefix="/api/v1/audit", tags=["audit"])


class AuditQuery(AuditFilter):
    """A part of what is wanted."""

    after: Int64 = 0
    limit: Annotated[int, Field(ge=1, le=LONGEST_PAGE)] = PAGE
    newest: bool = False


@router.get("")
def list_entries(hub: HubDep, caller: Viewer, query: Annotated[AuditQuery, Query()]) -> AuditPage:
    """Entries in their order, from `after` (an entry's id) on; with `newest`, the newest first, older than `after`.

    `since` (Unix seconds) leaves out what was before, `until` what was then and later; `actor`, `action` and `subject`
    what somebody else did, what was another deed, and what is of another device, rollout, release, …
    """
    return audit_log.list_records(hub, query, after=query.after, limit=query.limit, newest=query.newest)

"""The audit log: who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from cloud_hub.api.access import HubDep, Viewer
from cloud_hub.api.params import PAGE, KeyQuery, LimitQuery, MomentQuery
from cloud_hub.identity import audit_log
from fleet.api.audit import AuditPage
from fleet.api.types import Int64

router = APIRouter(prefix="/api/v1/audit", tags=["audit"])


@router.get("")
def list_entries(
    hub: HubDep,
    caller: Viewer,
    after: Annotated[Int64, Query()] = 0,
    limit: LimitQuery = PAGE,
    newest: bool = False,
    since: MomentQuery = 0.0,
    subject: KeyQuery = "",
) -> AuditPage:
    """Entries in their order, from `after` (an entry's id) on; with `newest`, the newest first, older than `after`.

    `since` (Unix seconds) leaves out what was before, `subject` what is of another device, rollout, release, …
    """
    return audit_log.list_records(hub, after=after, limit=limit, newest=newest, since=since, subject=subject)

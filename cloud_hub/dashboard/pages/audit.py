"""The audit log: who did what."""

from __future__ import annotations

import datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.responses import Response

from cloud_hub.api.params import KeyQuery
from cloud_hub.dashboard.rendering import Framed
from cloud_hub.identity import audit_log
from fleet.api.audit import AuditFilter
from fleet.api.types import Int64
from fleet.protocol.durations import DAY_S

router = APIRouter(prefix="/audit", include_in_schema=False)
PAGE = 100
Day = Annotated[str, Query(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$")]


@router.get("")
def show(
    frame: Framed,
    after: Annotated[Int64, Query()] = 0,
    day: Day = "",
    actor: KeyQuery = "",
    action: KeyQuery = "",
    subject: KeyQuery = "",
) -> Response:
    """Entries, newest first; of one day (UTC), of one person or program, of one action, about one thing."""
    since, problem = beginning_of(day)
    given = {"day": day, "actor": actor.strip(), "action": action.strip(), "subject": subject.strip()}
    wanted = AuditFilter(
        since=since,
        until=since + DAY_S if since else None,
        actor=given["actor"],
        action=given["action"],
        subject=given["subject"],
    )
    page = audit_log.list_records(frame.hub, wanted, after=after, limit=PAGE, newest=True)
    more = urlencode({**given, "after": page.next}) if page.next else ""
    return frame.show("audit.html", page=page, more=more, problem=problem, given=given)


def beginning_of(day: str) -> tuple[float, str]:
    """A day's first second (Unix seconds), or 0.0 and what is wrong with it."""
    if not day:
        return 0.0, ""
    try:
        found = datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC).timestamp()
    except ValueError:
        return 0.0, f"{day} is no day of the calendar: write it as 2026-11-30"
    return max(found, 0.0), ""

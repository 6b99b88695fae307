"""Jobs: the newest, and one with what it printed."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from cloud_hub.api.params import KeyPath, KeyQuery
from cloud_hub.dashboard.rendering import Framed
from cloud_hub.jobs import queue
from cloud_hub.jobs.logs import read_log
from fleet.api.jobs import JobInfo

router = APIRouter(prefix="/jobs", include_in_schema=False)
PAGE = 50
LINES = 200  # of a log: the last
LATELY_S = 7 * 86_400.0


@router.get("")
def show_list(frame: Framed, after: KeyQuery = "") -> Response:
    """Those that failed lately, then all, newest first."""
    since = frame.hub.clock() - LATELY_S
    failed = [JobInfo.model_validate(row) for row in queue.failed_lately(frame.hub, since, PAGE)] if not after else []
    rows = queue.newest(frame.hub, after=after, limit=PAGE + 1)
    jobs = [JobInfo.model_validate(row) for row in rows[:PAGE]]
    return frame.show("jobs.html", jobs=jobs, failed=failed, next=jobs[-1].id if len(rows) > PAGE else "")


@router.get("/{job}")
def show(job: KeyPath, frame: Framed) -> Response:
    """One job; its log is for those who may read it by the API, too: operators."""
    found = JobInfo.model_validate(queue.get(frame.hub, job))
    lines = read_log(frame.hub, job).splitlines()[-LINES:] if frame.may_change else []
    return frame.show("job.html", job=found, lines=lines)

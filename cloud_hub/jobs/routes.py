"""HTTP: jobs, and the retrain job of a model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from msgspec import Struct, field
from sqlmodel import col, select
from starlette.concurrency import run_in_threadpool

from cloud_hub.errors import InvalidError
from cloud_hub.jobs import queue
from cloud_hub.routes.deps import HubDep, OperatorUser, Viewer, decode, page
from cloud_hub.store.tables import Job
from cloud_hub.training.options import RetrainOptions, check_retrain

router = APIRouter(prefix="/api/v1", tags=["jobs"])
PAGE = 200


class NewJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job; `payload` are the options of its kind."""

    kind: str
    model: str
    payload: RetrainOptions = field(default_factory=RetrainOptions)


@router.get("/jobs")
def list_jobs(hub: HubDep, caller: Viewer, after: str = "") -> dict[str, Any]:
    """Jobs, newest first; `after` is the id of the last one seen."""
    query = select(Job).order_by(col(Job.id).desc()).limit(PAGE + 1)
    if after:
        query = query.where(col(Job.id) < after)
    with hub.reading() as session:
        rows = session.exec(query).all()
    return page([_show(row) for row in rows[:PAGE]], rows[PAGE - 1].id if len(rows) > PAGE else None)


@router.post("/jobs", status_code=201)
async def create(request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Queue a job."""
    wanted = decode(await request.body(), NewJob)
    if wanted.kind != "retrain":
        raise InvalidError(f"no kind of job {wanted.kind!r}", subject=wanted.kind, hint="known: retrain")
    job = await run_in_threadpool(check_retrain, hub, wanted.model, wanted.payload, actor=caller.actor)
    return _show(job)


@router.get("/jobs/{job}")
def show(job: str, hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """One job."""
    return _show(queue.get(hub, job))


@router.post("/jobs/{job}/cancel")
def cancel(job: str, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Ask a job to stop."""
    return _show(queue.cancel(hub, job, actor=caller.actor))


@router.post("/models/{model}/retrain", status_code=201)
async def retrain(model: str, request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Queue a retrain job."""
    options = decode(await request.body(), RetrainOptions)
    return _show(await run_in_threadpool(check_retrain, hub, model, options, actor=caller.actor))


def _show(job: Job) -> dict[str, Any]:
    return job.model_dump(exclude={"owner", "lease_until"})

"""HTTP: jobs, and the retrain job of a model."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from cloud_hub.api.access import HubDep, OperatorUser, Viewer
from cloud_hub.api.bodies import JsonBody
from cloud_hub.api.openapi import errors
from cloud_hub.api.params import PAGE, KeyPath, KeyQuery, LimitQuery, MomentQuery
from cloud_hub.jobs import queue, runs
from cloud_hub.jobs.logs import read_log
from cloud_hub.jobs.retraining import check_retrain, check_tune, create_job
from fleet.api.jobs import JobInfo, JobLog, JobPage, NewJob, RetrainOptions, TuneOptions
from fleet.api.runs import RunPage

router = APIRouter(prefix="/api/v1", tags=["jobs"])


@router.get("/jobs")
def list_jobs(
    hub: HubDep, caller: Viewer, after: KeyQuery = "", limit: LimitQuery = PAGE, since: MomentQuery = 0.0
) -> JobPage:
    """Jobs queued at `since` (Unix seconds) or later, newest first; `after` is the id of the last one seen."""
    rows = queue.newest(hub, after=after, limit=limit + 1, since=since)
    shown = [JobInfo.model_validate(row) for row in rows[:limit]]
    return JobPage(items=shown, next=shown[-1].id if len(rows) > limit else None)


@router.post("/jobs", status_code=201, responses=errors(404))
def create(hub: HubDep, caller: OperatorUser, wanted: Annotated[NewJob, JsonBody(NewJob)]) -> JobInfo:
    """Queue a job."""
    return JobInfo.model_validate(create_job(hub, wanted, actor=caller.actor))


@router.get("/jobs/{job}", responses=errors(404))
def show(job: KeyPath, hub: HubDep, caller: Viewer) -> JobInfo:
    """One job."""
    return JobInfo.model_validate(queue.get(hub, job))


@router.get("/jobs/{job}/log", responses=errors(404))
def log(job: KeyPath, hub: HubDep, caller: OperatorUser) -> JobLog:
    """Show the output of a job's code, at most the last MiB; empty while it runs."""
    return JobLog(job=job, text=read_log(hub, job))


@router.post("/jobs/{job}/cancel", responses=errors(404, 409))
def cancel(job: KeyPath, hub: HubDep, caller: OperatorUser) -> JobInfo:
    """Ask a job to stop."""
    return JobInfo.model_validate(queue.cancel(hub, job, actor=caller.actor))


@router.get("/models/{model}/runs", responses=errors(404))
def list_runs(model: KeyPath, hub: HubDep, caller: Viewer, after: KeyQuery = "", limit: LimitQuery = PAGE) -> RunPage:
    """A model's training runs, retrains and the trials of searches, side by side: those of `limit` jobs, the newest
    first; `after` is the id of the last job seen."""
    return runs.list_runs(hub, model, after=after, limit=limit)


@router.post("/models/{model}/retrain", status_code=201, responses=errors(404))
def retrain(
    model: KeyPath, hub: HubDep, caller: OperatorUser, options: Annotated[RetrainOptions, JsonBody(RetrainOptions)]
) -> JobInfo:
    """Queue a retrain job."""
    return JobInfo.model_validate(check_retrain(hub, model, options, actor=caller.actor))


@router.post("/models/{model}/tune", status_code=201, responses=errors(404))
def tune(
    model: KeyPath, hub: HubDep, caller: OperatorUser, options: Annotated[TuneOptions, JsonBody(TuneOptions)]
) -> JobInfo:
    """Queue a search over the recipe's hyper-parameters."""
    return JobInfo.model_validate(check_tune(hub, model, options, actor=caller.actor))

"""Training runs of a model, out of its jobs and of the releases that came of them.

A job's result is the word of whatever version of the hub wrote it, so each value counts only where it has the type that
it should have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.store.tables import Job, Release
from cloud_hub.trust.rows import get_model
from fleet.api.runs import RunGate, RunInfo, RunPage
from fleet.protocol.manifest import Manifest, decode_manifest

KINDS = ("retrain", "tune")
TRIALS = 200  # of one search, as many as one may have


def list_runs(hub: Hub, model: str, *, after: str = "", limit: int) -> RunPage:
    """The runs of at most `limit` jobs of a model, those of the newest first, from those older than the job `after` on.

    Args:
        hub: the hub.
        model: its name.
        after: the id of the last job of the part before; empty for the first part.
        limit: the most jobs of this part.

    Raises:
        NotFoundError: there is no such model.
    """
    query = select(Job).where(Job.model == model, col(Job.kind).in_(KINDS)).order_by(col(Job.id).desc())
    if after:
        query = query.where(col(Job.id) < after)
    with hub.reading() as session:
        get_model(session, model)
        jobs = list(session.exec(query.limit(limit + 1)))
        runs = [run for job in jobs[:limit] for run in _runs(session, job)]
    return RunPage(items=runs, next=jobs[limit - 1].id if len(jobs) > limit else None)


def _runs(session: Session, job: Job) -> Iterator[RunInfo]:
    if job.kind == "tune":
        yield from trials_of(job)
        return
    number = job.result.get("release")
    release = session.get(Release, (job.model, number)) if isinstance(number, int) else None
    yield retrain_of(job, decode_manifest(release.manifest) if release is not None and release.manifest else None)


def retrain_of(job: Job, manifest: Manifest | None) -> RunInfo:
    """A retrain as a run; `manifest` is that of its release, if there is one. Pure."""
    result = job.result
    served = next(iter(manifest.placed("edge")), None) if manifest is not None else None
    verdict = served.verdict if served is not None else None
    return RunInfo(
        id=job.id,
        job=job.id,
        kind="retrain",
        state=job.state,  # type: ignore[arg-type]  # the database's word; pydantic checks it
        at=job.created_at,
        took_s=_took(job),
        snapshot=_text(result.get("snapshot")) or _text(job.payload.get("snapshot")),
        seed=_whole(job.payload.get("seed")) or 0,
        hyper=_numbers(job.payload.get("hyper")),
        recipe=manifest.lineage.recipe if manifest is not None else "",
        metric=verdict.metric if verdict is not None else "",
        value=verdict.value if verdict is not None else None,
        interval=verdict.interval if verdict is not None else None,
        gate=RunGate(
            new=_number(result.get("gate_new")),
            old=_number(result.get("gate_old")),
            labels=_whole(result.get("gate_labels")),
            release=_whole(result.get("gate_release")),
        ),
        release=_whole(result.get("release")),
        error=job.error,
    )


def trials_of(job: Job) -> Iterator[RunInfo]:
    """The trials of a search as runs, the best first, those that failed last; the search itself where there is none
    yet. Pure."""
    listed = job.result.get("trials")
    trials = [one for one in listed if isinstance(one, dict)][:TRIALS] if isinstance(listed, list) else []
    losses = [loss for one in trials if (loss := _number(one.get("loss"))) is not None]
    known: dict[str, Any] = {
        "job": job.id,
        "kind": "trial",
        "at": job.created_at,
        "snapshot": _text(job.result.get("snapshot")) or _text(job.payload.get("snapshot")),
        "seed": _whole(job.payload.get("seed")) or 0,
    }
    if not trials:
        yield RunInfo.model_validate(
            {**known, "id": job.id, "state": job.state, "took_s": _took(job), "error": job.error}
        )
    for one in sorted(trials, key=_by_loss):
        loss, number = _number(one.get("loss")), _whole(one.get("trial"))
        yield RunInfo(
            **known,
            id=f"{job.id}/{number}",
            trial=number,
            state="failed" if loss is None else "succeeded",
            hyper=_numbers(one.get("hyper")),
            metric=_text(one.get("metric")),
            value=_number(one.get("score")),
            best=loss is not None and loss == min(losses),
            error=_text(one.get("error")),
        )


def _by_loss(trial: Mapping[str, Any]) -> float:
    loss = _number(trial.get("loss"))
    return math.inf if loss is None else loss


def _took(job: Job) -> float | None:
    return job.ended_at - job.started_at if job.ended_at is not None and job.started_at is not None else None


def _numbers(value: object) -> dict[str, float]:
    found = {str(key): _number(one) for key, one in value.items()} if isinstance(value, dict) else {}
    return {key: one for key, one in found.items() if one is not None}


def _number(value: object) -> float | None:
    is_one = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_one else None  # type: ignore[arg-type]


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

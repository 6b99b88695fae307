"""The queue: one statement claims a job, a heartbeat keeps it, a lease that ran out gives it back."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import ColumnElement, and_, case, or_, update
from sqlmodel import Session, col, func, select

from cloud_hub.clock import SLACK_S
from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, NotFoundError
from cloud_hub.events.kinds import Event
from cloud_hub.events.outbox import record
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Job

LEASE_S = 30.0
ENDED = ("succeeded", "failed", "cancelled")


class CancelledError(ConflictError):
    """Somebody asked the job to stop."""


class LeaseLostError(ConflictError):
    """Another worker has the job now, because this one was silent for too long."""


def submit(
    hub: Hub, kind: str, *, model: str = "", payload: dict[str, Any] | None = None, actor: str, alone: bool = False
) -> Job:
    """Queue a job.

    Args:
        hub: for the clock and the audit log.
        kind: such as `retrain`.
        model: the model's name; empty where it is about none.
        payload: plain JSON, as the kind takes it.
        actor: as in the audit log.
        alone: only when none of its kind and model waits or runs.

    Raises:
        ConflictError: `alone`, and another is under way.
    """
    job = Job(
        id=f"{int(hub.clock() * 1000):012x}{secrets.token_hex(5)}",
        kind=kind,
        model=model,
        payload=payload or {},
        state="queued",
        created_at=hub.clock(),
        created_by=actor,
    )
    with hub.session() as session:
        if alone:
            lock_name(session, f"job:{kind}:{model}")
            _refuse_second(session, kind, model)
        session.add(job)
        hub.audit(session, actor, "job.create", job.id, {"kind": kind, "model": model})
    return job


def claim(hub: Hub, owner: str) -> Job | None:
    """Take the oldest job that waits, or whose worker has died; None when there is none.

    One UPDATE does it; PostgreSQL skips rows that another worker is just taking, and SQLite has a
    single writer. A job that has used up its attempts fails here.
    """
    now = hub.clock()
    waiting = or_(col(Job.state) == "queued", _abandoned(now))
    # what a clock that ran ahead has dated would come last for ever, as long as others are queued
    age = case((col(Job.created_at) > now + SLACK_S, 0.0), else_=col(Job.created_at))
    with hub.session() as session:
        _give_up(session, now)
        oldest = select(Job.id).where(waiting).order_by(age).limit(1).with_for_update(skip_locked=True)
        taken = (
            update(Job)
            .where(col(Job.id) == oldest.scalar_subquery())
            .values(state="running", owner=owner, lease_until=now + LEASE_S, attempt=Job.attempt + 1, started_at=now)
            .returning(col(Job.id))
        )
        found = session.connection().execute(taken).scalar_one_or_none()
    return None if found is None else get(hub, found)


def beat(hub: Hub, job: str, owner: str, **changes: Any) -> None:
    """Renew the lease, and record step, progress or result.

    Args:
        hub: the hub.
        job: its id.
        owner: the worker that has it.
        changes: columns of the job's row to write.

    Raises:
        LeaseLostError: the job belongs to another worker now.
        CancelledError: somebody has cancelled it.
    """
    with hub.session() as session:
        row = _owned(session, job, owner)
        row.lease_until = hub.clock() + LEASE_S
        for key, value in changes.items():
            setattr(row, key, value)
        session.add(row)
        cancelled = row.cancel_requested
    if cancelled:
        raise CancelledError(f"job {job} was cancelled", subject=job)


def check(hub: Hub, job: str, owner: str) -> None:
    """Check that a job is still its worker's and was not cancelled; changes nothing.

    Args:
        hub: the hub.
        job: its id.
        owner: the worker that has it.

    Raises:
        LeaseLostError, CancelledError: as in `beat`.
    """
    with hub.reading() as session:
        row = session.get(Job, job)
    if row is None or row.owner != owner or row.state != "running":
        raise LeaseLostError(f"job {job} belongs to another worker now", subject=job)
    if row.cancel_requested:
        raise CancelledError(f"job {job} was cancelled", subject=job)


def finish(
    hub: Hub, job: str, owner: str, state: str, *, error: str = "", result: dict[str, Any] | None = None
) -> None:
    """End a job.

    Args:
        hub: of the job.
        job: its id.
        owner: the worker that holds its lease.
        state: one of `ENDED`.
        error: in words, where it failed.
        result: plain JSON, added to the present one.

    Raises:
        LeaseLostError: it is not ours any more.
    """
    with hub.session() as session:
        row = _owned(session, job, owner)
        row.state, row.error, row.ended_at, row.owner = state, error, hub.clock(), ""
        row.result = {**row.result, **(result or {})}
        if state == "succeeded":
            row.progress = 1.0
        session.add(row)
        if state == "failed":
            record(session, _failure(row.id, row.kind, row.model, error), hub.clock())


def cancel(hub: Hub, job: str, *, actor: str) -> Job:
    """End a waiting job at once, a running one at its next step.

    Args:
        hub: the hub.
        job: its id.
        actor: as in the audit log.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has ended.
    """
    with hub.session() as session:
        row = session.get(Job, job, with_for_update=True)  # a worker that just claims or ends it comes before or after
        if row is None:
            raise NotFoundError(f"no job {job}", subject=job, hint="see: fleet job list")
        if row.state in ENDED:
            raise ConflictError(f"job {job} has {row.state} already", subject=job)
        row.cancel_requested = True
        if row.state == "queued":
            row.state, row.ended_at = "cancelled", hub.clock()
        session.add(row)
        hub.audit(session, actor, "job.cancel", job)
        return row


def get(hub: Hub, job: str) -> Job:
    """A job; NotFoundError when there is none."""
    with hub.reading() as session:
        row = session.get(Job, job)
    if row is None:
        raise NotFoundError(f"no job {job}", subject=job, hint="see: fleet job list")
    return row


def newest(hub: Hub, *, after: str, limit: int, since: float = 0.0) -> list[Job]:
    """Return jobs, newest first.

    Args:
        hub: of the jobs.
        after: an id; only older jobs, empty for all.
        limit: at most so many.
        since: Unix seconds; jobs that were queued then or later.
    """
    query = select(Job).where(Job.created_at >= since).order_by(col(Job.id).desc()).limit(limit)
    if after:
        query = query.where(col(Job.id) < after)
    with hub.reading() as session:
        return list(session.exec(query))


def failed_lately(hub: Hub, since: float, most: int) -> list[Job]:
    """Return jobs that failed after a moment (Unix seconds), newest first and at most `most`, without those after
    which another of the same kind and model has succeeded.

    Args:
        hub: the hub.
        since: Unix seconds.
        most: the length of the list.
    """
    with hub.reading() as session:
        wanted = select(Job).where(Job.state == "failed", col(Job.ended_at) >= since).order_by(col(Job.id).desc())
        failed = session.exec(wanted.limit(most)).all()
        done = select(Job.kind, Job.model, func.max(Job.id)).where(Job.state == "succeeded", col(Job.ended_at) >= since)
        last = {(kind, model): job for kind, model, job in session.exec(done.group_by(Job.kind, Job.model))}
    return [job for job in failed if job.id > last.get((job.kind, job.model), "")]


def _refuse_second(session: Session, kind: str, model: str) -> None:
    waiting = select(Job.id).where(Job.kind == kind, Job.model == model, col(Job.state).in_(("queued", "running")))
    found = session.exec(waiting).first()
    if found is not None:
        raise ConflictError(f"a {kind} job of {model} is under way already: {found}", subject=model)


def _abandoned(now: float) -> ColumnElement[bool]:
    """Running, and nobody's: the lease is over, or ends later than any can (a clock that ran ahead has taken it)."""
    until = col(Job.lease_until)
    return and_(col(Job.state) == "running", or_(until < now, until > now + LEASE_S + SLACK_S))


def _give_up(session: Session, now: float) -> None:
    dead = (_abandoned(now), col(Job.attempt) >= col(Job.max_attempts))
    values: dict[str, Any] = {"state": "failed", "ended_at": now, "error": "its worker died each time it was tried"}
    ended = update(Job).where(*dead).values(**values).returning(col(Job.id), col(Job.kind), col(Job.model))
    for job, kind, model in session.connection().execute(ended).all():
        record(session, _failure(job, kind, model, values["error"]), now)


def _failure(job: str, kind: str, model: str, error: str) -> Event:
    of = f" of {model}" if model else ""
    facts = {"job_kind": kind, "model": model, "error": error[:1000]}
    return Event(kind="job.failed", subject=job, message=f"{kind}{of} failed (job {job}): {error}", data=facts)


def _owned(session: Session, job: str, owner: str) -> Job:
    row = session.get(Job, job, with_for_update=True)
    if row is None or row.owner != owner or row.state != "running":
        raise LeaseLostError(f"job {job} belongs to another worker now", subject=job)
    return row

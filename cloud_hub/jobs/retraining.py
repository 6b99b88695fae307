"""What a retrain job is asked to do; light, so that the server need not load torch."""

from __future__ import annotations

from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.jobs import queue
from cloud_hub.store.tables import ChannelRow, Job, Snapshot
from cloud_hub.trust.rows import get_model
from fleet.api.jobs import NewJob, RetrainOptions


def create_job(hub: Hub, wanted: NewJob, *, actor: str) -> Job:
    """Queue a job of any kind; InvalidError for a kind that is not known, and what the kind's own checks raise."""
    if wanted.kind != "retrain":
        raise InvalidError(f"no kind of job {wanted.kind!r}", subject=wanted.kind, hint="known: retrain")
    return check_retrain(hub, wanted.model, wanted.payload, actor=actor)


def check_retrain(hub: Hub, model: str, options: RetrainOptions, *, actor: str, alone: bool = False) -> Job:
    """Queue a retrain job, after checking what can be checked now; with `alone` only beside no other of the model.

    Raises NotFoundError (model, snapshot, channel), InvalidError (no recipe; a snapshot of another model),
    ConflictError (`alone`, and another is under way).
    """
    with hub.reading() as session:
        if not get_model(session, model).recipe:
            raise InvalidError(f"model {model!r} has no recipe", subject=model, hint="set one: PATCH …/models/NAME")
        if options.snapshot:
            row = session.get(Snapshot, options.snapshot)
            if row is None:
                raise NotFoundError(f"no snapshot {options.snapshot}", subject=options.snapshot)
            if row.model != model:
                raise InvalidError(f"snapshot {row.id} is of {row.model!r}", subject=row.id)
        if options.channel and session.get(ChannelRow, options.channel) is None:
            raise NotFoundError(f"no channel {options.channel!r}", subject=options.channel)
    return queue.submit(hub, "retrain", model=model, payload=options.model_dump(), actor=actor, alone=alone)

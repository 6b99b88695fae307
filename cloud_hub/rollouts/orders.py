"""Rollouts as the API shows them, and what an operator orders."""

from __future__ import annotations

import msgspec
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.rollouts.create import look_ahead, start_rollout
from cloud_hub.rollouts.engine import carry_out, locked, read, read_or_name, settle, store
from cloud_hub.store.tables import RolloutEvent, RolloutRow
from fleet.api.rollouts import (
    CreatedRollout,
    NewRollout,
    Order,
    RolloutEventInfo,
    RolloutForecast,
    RolloutInfo,
)
from fleet.rollouts import machine
from fleet.rollouts.errors import TransitionError


def list_rollouts(hub: Hub) -> list[RolloutInfo]:
    """Every rollout, newest first."""
    with hub.reading() as session:
        return [describe(row) for row in session.exec(select(RolloutRow).order_by(col(RolloutRow.created_at).desc()))]


def show_rollout(hub: Hub, rollout: str) -> RolloutInfo:
    """One rollout; NotFoundError when there is none."""
    with hub.reading() as session:
        return describe(_found(session, rollout))


def list_events(hub: Hub, rollout: str) -> list[RolloutEventInfo]:
    """What happened in a rollout, in order; NotFoundError when there is none."""
    wanted = select(RolloutEvent).where(RolloutEvent.rollout == rollout).order_by(col(RolloutEvent.id))
    with hub.reading() as session:
        _found(session, rollout)
        return [RolloutEventInfo.model_validate(row) for row in session.exec(wanted)]


def plan(hub: Hub, wanted: NewRollout) -> RolloutForecast:
    """What a rollout would take; see `look_ahead` for what it raises."""
    ahead = look_ahead(hub, **wanted.model_dump())
    return RolloutForecast(
        model=wanted.model,
        channel=wanted.channel,
        release=wanted.release,
        from_release=ahead.from_release,
        forecast=ahead.forecast,
    )


def start(hub: Hub, wanted: NewRollout, *, actor: str) -> CreatedRollout:
    """Start a rollout, and say what there is to know; see `look_ahead` and `start_rollout` for what they raise."""
    settle(hub, wanted.channel, actor=actor)
    ahead = look_ahead(hub, **wanted.model_dump())
    known, found = describe(start_rollout(hub, ahead, actor=actor)), ahead.forecast
    return CreatedRollout(
        **{name: getattr(known, name) for name in RolloutInfo.model_fields},
        cannot_follow=len(found.scope.unable),
        notes=list(found.notes),
    )


def apply_order(hub: Hub, rollout: str, order: Order, reason: str, actor: str, stage: int | None = None) -> RolloutInfo:
    """Carry out an operator's order.

    Args:
        hub: the hub.
        rollout: its id.
        order: pause, resume, abort, retry, approve or promote.
        reason: goes into the rollout's history.
        actor: who orders, for the audit log.
        stage: the one that is meant, counted from 1; None for whichever it is at.

    Raises:
        NotFoundError: no such rollout.
        ConflictError: its state does not allow it, or it is at another stage.
        InvalidError: promoting without a reason.
    """
    if order == "promote" and not reason.strip():
        raise InvalidError("promoting by hand needs a reason", subject=rollout, hint="add --reason WHY")
    with hub.session() as session:
        row = locked(session, rollout)
        plan, progress = _readable(row, order)
        try:
            decision = machine.apply(plan, progress, order, hub.clock(), reason=reason, stage=stage)
        except TransitionError as error:
            raise ConflictError(str(error), subject=rollout, hint=error.hint) from error
        store(session, row, decision, hub.clock())
        hub.audit(session, actor, f"rollout.{order}", rollout, {"reason": reason})
    carry_out(hub, rollout, actor=actor)
    return describe(row)


def _readable(row: RolloutRow, order: Order) -> tuple[machine.Plan, machine.Progress]:
    """The rollout, which may be one that this hub cannot read where it is to be aborted."""
    try:
        return read(row)
    except msgspec.ValidationError as error:
        if order == "abort":
            return read_or_name(row)
        what = f"this hub cannot read rollout {row.id}, perhaps a newer one wrote it: {error}"
        raise ConflictError(what, subject=row.id, hint="abort it, or order this from the newer hub") from error


def describe(row: RolloutRow) -> RolloutInfo:
    """A rollout as the API shows it."""
    plan, progress = read_or_name(row)
    return RolloutInfo(
        **row.model_dump(exclude={"plan", "progress", "reason"}),
        reason=progress.reason,
        plan=plan,
        progress=progress,
        stage=progress.stage + 1,
        stages=[stage.share_ppm / 10_000 for stage in plan.stages],
        exposed_devices=progress.exposed,
        verdict=progress.verdict,
    )


def _found(session: Session, rollout: str) -> RolloutRow:
    row = session.get(RolloutRow, rollout)
    if row is None:
        raise NotFoundError(f"no rollout {rollout!r}", subject=rollout, hint="see: fleet rollout status")
    return row

"""Rollouts as the API shows them, and what an operator orders."""

from __future__ import annotations

import logging

import msgspec
from sqlalchemy import and_, or_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, HubError, InvalidError, KeptError, NotFoundError
from cloud_hub.rollouts.create import Proposal, look_ahead, start_rollout
from cloud_hub.rollouts.engine import carry_out, locked, read_or_name, settle, store
from cloud_hub.store.rollout_rows import plan_and_progress
from cloud_hub.store.tables import DeviceEvent, RolloutEvent, RolloutRow
from fleet.api.rollouts import (
    CreatedRollout,
    NewRollout,
    Order,
    RolloutEventInfo,
    RolloutForecast,
    RolloutInfo,
    RolloutPage,
)
from fleet.protocol.errors import ProtocolError
from fleet.rollouts import machine, pacing
from fleet.rollouts.errors import TransitionError
from fleet.rollouts.remaining import remaining
from fleet.rollouts.schedule import Schedule

log = logging.getLogger(__name__)
REPORTS = 1000  # of a device, that are read for the rollouts they are about


def list_rollouts(hub: Hub, *, after: str = "", limit: int = 200, since: float = 0.0, device: str = "") -> RolloutPage:
    """At most `limit` rollouts, newest first.

    Args:
        after: the id of the last one seen; empty for the first page.
        since: only those that were created then or later (Unix seconds).
        device: only those that this device has reported of, in its last `REPORTS` reports; empty for all.

    Raises:
        NotFoundError: no rollout `after`.
    """
    newest = col(RolloutRow.created_at).desc(), col(RolloutRow.id).desc()
    wanted = select(RolloutRow).where(RolloutRow.created_at >= since).order_by(*newest).limit(limit + 1)
    with hub.reading() as session:
        if device:
            wanted = wanted.where(col(RolloutRow.id).in_(_reported_by(session, device)))
        if after:
            last = _found(session, after)
            at, older = col(RolloutRow.created_at), col(RolloutRow.id) < last.id
            wanted = wanted.where(or_(at < last.created_at, and_(at == last.created_at, older)))
        rows = [describe(row, hub.clock()) for row in session.exec(wanted)]
    return RolloutPage(items=rows[:limit], next=rows[limit - 1].id if len(rows) > limit else None)


def list_troubled(hub: Hub, since: float, most: int) -> list[RolloutInfo]:
    """Return rollouts that are the newest of their channel and model, and have halted since a moment (Unix seconds),
    or are paused, or live: newest first, and at most `most`."""
    newest = col(RolloutRow.created_at).desc(), col(RolloutRow.id).desc()
    ended = and_(col(RolloutRow.state) == "halted", col(RolloutRow.ended_at) >= since)
    wanted = select(RolloutRow).where(or_(ended, col(RolloutRow.ended_at).is_(None))).order_by(*newest)
    later = aliased(RolloutRow)
    same = (later.channel == RolloutRow.channel, later.model == RolloutRow.model)
    wanted = wanted.where(~select(later.id).where(*same, later.created_at > RolloutRow.created_at).exists())
    with hub.reading() as session:
        return [describe(row, hub.clock()) for row in session.exec(wanted.limit(most))]


def _reported_by(session: Session, device: str) -> set[str]:
    """The rollouts that a device names in its reports."""
    reports = select(DeviceEvent.body).where(DeviceEvent.device_id == device, DeviceEvent.kind == "model")
    bodies = session.exec(reports.order_by(col(DeviceEvent.id).desc()).limit(REPORTS))
    return {str(body["rollout"]) for body in bodies if body.get("rollout")}


def show_rollout(hub: Hub, rollout: str) -> RolloutInfo:
    """One rollout; NotFoundError when there is none."""
    with hub.reading() as session:
        row = _found(session, rollout)
    found = describe(row, hub.clock())
    return found.model_copy(update={"remaining": remaining(found.plan, found.progress, hub.clock())})


def list_events(hub: Hub, rollout: str) -> list[RolloutEventInfo]:
    """List the events of a rollout, the oldest first.

    Raises:
        NotFoundError: there is no such rollout.
    """
    wanted = select(RolloutEvent).where(RolloutEvent.rollout == rollout).order_by(col(RolloutEvent.id))
    with hub.reading() as session:
        _found(session, rollout)
        return [RolloutEventInfo.model_validate(row) for row in session.exec(wanted)]


def plan(hub: Hub, wanted: NewRollout) -> RolloutForecast:
    """Forecast a rollout; raises as `look_ahead` does."""
    ahead = look_ahead(hub, _proposed(wanted))
    return RolloutForecast(
        model=wanted.model,
        channel=wanted.channel,
        release=wanted.release,
        from_release=ahead.from_release,
        forecast=ahead.forecast,
    )


def start(hub: Hub, wanted: NewRollout, *, actor: str, from_release: int | None = None) -> CreatedRollout:
    """Start a rollout, and say what there is to know.

    Args:
        from_release: the one that whoever asks has seen as the channel's default; None for whichever it is.

    Raises:
        ConflictError: the channel has another default by now; and what `look_ahead` and `start_rollout` raise.
    """
    settle(hub, wanted.channel, actor=actor)
    ahead = look_ahead(hub, _proposed(wanted))
    if from_release not in (None, ahead.from_release):
        what = f"channel {wanted.channel!r} runs release {ahead.from_release} of {wanted.model!r} by now"
        raise ConflictError(f"{what}, not {from_release}", subject=wanted.channel, hint="look at the plan again")
    known, found = describe(start_rollout(hub, ahead, actor=actor), hub.clock()), ahead.forecast
    return CreatedRollout(
        **{name: getattr(known, name) for name in RolloutInfo.model_fields},
        cannot_follow=len(found.scope.unable),
        notes=list(found.notes),
    )


def _proposed(wanted: NewRollout) -> Proposal:
    """Return the request as `look_ahead` takes it."""
    asked = wanted.model_dump(exclude={"schedule"})
    if wanted.schedule is None:
        return Proposal(**asked)
    given = wanted.schedule.model_dump(exclude_none=True, exclude={"usual"})
    schedule = msgspec.convert(given, Schedule)
    said = schedule if schedule != Schedule() else None
    return Proposal(**asked, schedule=said, usual=wanted.schedule.usual)


def apply_order(
    hub: Hub,
    rollout: str,
    order: Order,
    reason: str,
    actor: str,
    stage: int | None = None,
    attempt: int | None = None,
) -> RolloutInfo:
    """Carry out an operator's order.

    Args:
        hub: the hub.
        rollout: its id.
        order: pause, resume, abort, retry, approve or promote.
        reason: goes into the rollout's history.
        actor: who orders, for the audit log.
        stage: the one that is meant, counted from 1 (0: the shadow stage); None for whichever it is at.
        attempt: the one that is meant, likewise: an order that comes after a retry is about devices that try again.

    Raises:
        NotFoundError: no such rollout.
        ConflictError: its state does not allow it, or it is at another stage or attempt.
        InvalidError: promoting without a reason.
        KeptError: the order is kept, and could not be published yet; the next look of the engine does.
    """
    if order == "promote" and not reason.strip():
        raise InvalidError("promoting by hand needs a reason", subject=rollout, hint="add --reason WHY")
    with hub.session() as session:
        row = locked(session, rollout)
        plan, progress = _readable(row, order)
        if attempt not in (None, progress.attempt):
            what = f"rollout {rollout} is at attempt {progress.attempt} by now: {order} was meant for {attempt}"
            raise ConflictError(what, subject=rollout, hint=f"look first: fleet rollout status {rollout}")
        try:
            decision = machine.apply(plan, progress, order, hub.clock(), reason=reason, stage=stage)
        except TransitionError as error:
            raise ConflictError(str(error), subject=rollout, hint=error.hint) from error
        store(session, row, decision, hub.clock())
        hub.audit(session, actor, f"rollout.{order}", rollout, {"reason": reason})
    _publish(hub, row, order, actor)
    return describe(row, hub.clock())


def _publish(hub: Hub, row: RolloutRow, order: Order, actor: str) -> None:
    """Publish what an order has changed. Where that fails the order is kept all the same: it is stored by now."""
    try:
        carry_out(hub, row.id, actor=actor)
    except KeptError:
        raise
    except (HubError, ProtocolError, DBAPIError) as error:
        log.exception("rollout %s: the order to %s is kept, and not published yet", row.id, order)
        why = error if isinstance(error, (HubError, ProtocolError)) else "the database does not answer"
        raise KeptError(
            f"the order to {order} is kept (rollout {row.id} is {row.state}), and channel {row.channel!r} does not say "
            f"so yet: {why}",
            subject=row.id,
            hint="do not order it again; the hub publishes it by itself once it can",
        ) from error


def _readable(row: RolloutRow, order: Order) -> tuple[machine.Plan, machine.Progress]:
    """The rollout, which may be one that this hub cannot read where it is to be aborted."""
    try:
        return plan_and_progress(row)
    except msgspec.ValidationError as error:
        if order == "abort":
            return read_or_name(row)
        what = f"this hub cannot read rollout {row.id}, perhaps a newer one wrote it: {error}"
        raise ConflictError(what, subject=row.id, hint="abort it, or order this from the newer hub") from error


def describe(row: RolloutRow, now: float) -> RolloutInfo:
    """A rollout as the API shows it."""
    plan, progress = read_or_name(row)
    return RolloutInfo(
        **row.model_dump(exclude={"plan", "progress", "reason"}),
        reason=progress.reason,
        plan=plan,
        progress=progress,
        stage=progress.number,
        stages=[stage.share_ppm / 10_000 for stage in plan.stages],
        exposed_devices=progress.exposed,
        verdict=progress.verdict,
        waits=pacing.waits(plan, progress, now),
        shadow=progress.shadow,
    )


def _found(session: Session, rollout: str) -> RolloutRow:
    row = session.get(RolloutRow, rollout)
    if row is None:
        raise NotFoundError(f"no rollout {rollout!r}", subject=rollout, hint="see: fleet rollout status")
    return row

"""One step of every live rollout: facts in, decision stored, then published.

Progress is stored before anything is published. After a crash in between, the next step finds that
the channel does not hold what the stored progress wants, and publishes it; doing so twice changes
nothing. Several replicas may run the engine: a lease lets one of them act. Where two act all the same
(a lease that ran out in the middle of a step, an operator's order), the rollout's row is locked from
its reading to its writing, so that each decides on what the other has left.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import msgspec
from msgspec.structs import replace
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, func, select

from cloud_hub.acts import RolloutEnded
from cloud_hub.context import Hub
from cloud_hub.errors import HubError, NotFoundError
from cloud_hub.events.kinds import of_rollout
from cloud_hub.events.outbox import record
from cloud_hub.journal import write_act
from cloud_hub.rollouts.facts import Books, mark, reference
from cloud_hub.services.periodic import PeriodicService
from cloud_hub.services.supervisor import Service
from cloud_hub.store import hearing, pairing
from cloud_hub.store.rollout_rows import plan_and_progress
from cloud_hub.store.tables import ChannelRow, Device, RolloutEvent, RolloutRow
from fleet.protocol.channel import Channel, ModelEntry, decode_channel
from fleet.protocol.errors import ProtocolError
from fleet.rollouts import machine, pacing
from fleet.rollouts.errors import RolloutError
from fleet.rollouts.machine import Decision, Plan, Progress

log = logging.getLogger(__name__)
GUARD = "guard"


class RolloutEngine(PeriodicService):
    """Steps all live rollouts every `engines.rollout_tick_s` seconds."""

    name = "rollouts"

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, hub.config.engines.rollout_tick_s)
        self._books = Books(hub)

    def look(self) -> None:
        """Look at every rollout once."""
        with self._hub.reading() as session:
            live = list(session.exec(select(RolloutRow.id).where(col(RolloutRow.state).not_in(machine.ENDED))))
            ids = [*live, *_unfinished(session)]
        self._books.look(live)
        for rollout in dict.fromkeys(ids):
            try:
                self._step_one(rollout)
            except (
                HubError,
                ProtocolError,
                RolloutError,
                msgspec.MsgspecError,
                DBAPIError,
            ):  # the others go on; this one is looked at again
                self._books.forget(rollout)
                log.exception("rollout %s: its step failed", rollout)

    def _step_one(self, rollout: str) -> None:
        with self._hub.reading() as session:
            self._open(session, rollout)
        with self._hub.session() as session:
            row = locked(session, rollout)
            plan, progress = plan_and_progress(row)
            channel = session.get(ChannelRow, row.channel)
            if channel is not None and row.state not in machine.ENDED:
                self._judge(session, row, plan, progress, decode_channel(channel.document))
        carry_out(self._hub, rollout, actor=GUARD)

    def _open(self, session: Session, rollout: str) -> None:
        row = session.get(RolloutRow, rollout)
        channel = None if row is None else session.get(ChannelRow, row.channel)
        if row is not None and channel is not None and row.state not in machine.ENDED:
            self._books.settle(*plan_and_progress(row))
            self._books.open(session, *plan_and_progress(row), decode_channel(channel.document))

    def _judge(self, session: Session, row: RolloutRow, plan: Plan, progress: Progress, channel: Channel) -> None:
        now = self._hub.clock()
        deaf_until = hearing.deaf_until(session, now)
        facts, failed = self._books.gather(session, plan, progress, channel, deaf_until, now)
        if facts is None:
            return
        mark(session, plan, progress, failed, machine.newly_silent(plan, progress, facts, now), now)
        decision = machine.decide(plan, progress, facts, now)
        if decision.progress != progress:
            store(session, row, decision, now)
        for event in decision.events:
            self._hub.audit(session, GUARD, f"rollout.{event.name}", row.id, {"reason": event.reason})


def locked(session: Session, rollout: str) -> RolloutRow:
    """The rollout's row, locked until the transaction ends: a decision rests on what nobody changes meanwhile.

    Raises NotFoundError.
    """
    row = session.get(RolloutRow, rollout, with_for_update=True)
    if row is None:
        raise NotFoundError(f"no rollout {rollout!r}", subject=rollout, hint="see: fleet rollout status")
    return row


def read_or_name(row: RolloutRow) -> tuple[Plan, Progress]:
    """As `plan_and_progress`; of one that this hub cannot read, its columns, so that it can be shown and aborted."""
    try:
        return plan_and_progress(row)
    except msgspec.ValidationError as error:
        plan = Plan(
            id=row.id,
            model=row.model,
            channel=row.channel,
            release=row.release,
            from_release=row.from_release,
            stages=(),
            salt=row.salt,
        )
        progress = Progress(
            state=cast(machine.State, row.state),
            attempt=row.attempt,
            ended_at=row.ended_at,
            reason=row.reason or f"this hub cannot read the rollout, perhaps a newer one wrote it: {error}",
        )
        return plan, progress


def document_of(value: Plan | Progress) -> dict[str, Any]:
    """A plan or progress as its column holds it, the same before and after it was written: lists, no tuples.

    A rollout in its shadow stage has no number of a stage there: an older hub beside this one, which knows of no such
    stage, would begin with the first; so it cannot read it, and leaves it alone. One whose orders follow a schedule has
    its number as text, likewise: an older hub would order the whole stage.
    """
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    if document.get("shadowing"):
        return {**document, "stage": None}
    return {**document, "stage": str(document["stage"])} if document.get("ordered") else document


def store(session: Session, row: RolloutRow, decision: Decision, now: float, *, noted: bool = True) -> None:
    """Write a decision's progress and events, in the caller's transaction.

    Args:
        session: a writing transaction.
        row: the rollout's.
        decision: of this step.
        now: Unix seconds.
        noted: its end goes into the journal, and its events into the outbox.
    """
    progress = decision.progress
    shadowed = row.progress.get("shadowing") and not progress.shadowing
    row.progress = document_of(progress)
    row.state, row.attempt, row.reason = progress.state, progress.attempt, progress.reason
    row.ended_at, row.updated_at = progress.ended_at, now
    session.add(row)
    session.flush()
    if shadowed:
        pairing.forget(session, row.id, sums=True)  # the same inputs count anew where devices are served
    if progress.ended_at is not None:
        pairing.forget(session, row.id)  # no input counts any more
        if noted and progress.state != "finished":
            write_act(session, RolloutEnded(rollout=row.id, state=progress.state, reason=progress.reason))
    facts = {"model": row.model, "channel": row.channel, "release": row.release}
    for event in decision.events:
        session.add(RolloutEvent(rollout=row.id, at=now, event=event.name, detail={"reason": event.reason}))
        told = of_rollout(event.name, row.id, event.reason, facts) if noted else None
        if told is not None:
            record(session, told, now)


def carry_out(hub: Hub, rollout: str, *, actor: str) -> None:
    """Make the channel hold what the stored progress wants; nothing happens when it does already.

    The progress is read again under the publishing lock, with its row locked: an order that was given since then is
    what is published, or is carried out after this.
    """
    with hub.reading() as session:
        row = session.get(RolloutRow, rollout)
        assert row is not None
        plan, progress = read_or_name(row)
        channel = session.get(ChannelRow, row.channel)
        document = None if channel is None else decode_channel(channel.document)
    if document is None or with_progress(document, plan, progress) == document:
        return

    def look_again(session: Session) -> None:
        nonlocal progress
        progress = read_or_name(locked(session, rollout))[1]

    def change(current: Channel) -> Channel:
        return with_progress(current, plan, progress)

    def spread(session: Session) -> None:
        told = session.get(ChannelRow, plan.channel)
        assert told is not None  # it has just been written
        # A halt must not wait for stragglers, nor for a step that it came into: it is told to all at once.
        told.spread_s = pacing.spread_s(plan, progress, followers(session, plan.channel))

    hub.publisher.change_channel(plan.channel, change, actor=actor, create=False, first=look_again, also=spread)
    ids = {"rollout": rollout, "channel": plan.channel, "model": plan.model, "release": plan.release}
    log.info("rollout %s: channel %s now says %s", rollout, plan.channel, progress.state, extra=ids)


def followers(session: Session, channel: str) -> int:
    """Devices that look at a channel."""
    wanted = select(func.count()).where(Device.channel == channel, col(Device.revoked_at).is_(None))
    return session.exec(wanted).one()


def with_progress(document: Channel, plan: Plan, progress: Progress) -> Channel:
    """Return the channel's document as the progress wants it."""
    entry = document.models.get(plan.model)
    if entry is None:
        return document
    return replace(document, models={**document.models, plan.model: changed(entry, plan, progress)})


def changed(entry: ModelEntry, plan: Plan, progress: Progress) -> ModelEntry:
    """Return the channel's entry as the progress wants it; the same entry when another rollout owns it."""
    action = machine.wanted(plan, progress)
    if entry.rollout is not None and entry.rollout.id != plan.id:
        return entry
    if isinstance(action, machine.Publish):
        if entry.release != plan.from_release:
            return entry  # somebody changed the default; the next step finds that out and aborts
        return replace(entry, rollout=reference(plan, action.share_ppm, action.attempt, shadow=action.shadow))
    if entry.rollout is None:
        return entry
    if isinstance(action, machine.Promote):
        return replace(entry, release=action.release, rollout=None)
    return replace(entry, rollout=None)


def settle(hub: Hub, channel: str, *, actor: str) -> None:
    """Take ended rollouts out of the channel: a caller who reads that one has ended may go on at once, though its
    end is stored before it is published."""
    with hub.reading() as session:
        ended = _unfinished(session, channel)
    for rollout in ended:
        carry_out(hub, rollout, actor=actor)


def _unfinished(session: Session, channel: str | None = None) -> list[str]:
    """Rollouts that have ended but still stand in their channel (or in any): their end is not published yet."""
    channels = select(ChannelRow) if channel is None else select(ChannelRow).where(ChannelRow.name == channel)
    named = [
        entry.rollout.id
        for row in session.exec(channels)
        for entry in decode_channel(row.document).models.values()
        if entry.rollout is not None
    ]
    ended = select(RolloutRow.id).where(col(RolloutRow.id).in_(named), col(RolloutRow.state).in_(machine.ENDED))
    return list(session.exec(ended)) if named else []


def services(hub: Hub) -> list[Service]:
    """The services of this package."""
    return [RolloutEngine(hub)]

"""One step of every live rollout: facts in, decision stored, then published.

Progress is stored before anything is published. After a crash in between, the next step finds that
the channel does not hold what the stored progress wants, and publishes it; doing so twice changes
nothing. Several replicas may run the engine: a lease lets one of them act.
"""

from __future__ import annotations

import logging

import msgspec
from msgspec.structs import replace
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.engines import Engine
from cloud_hub.rollouts.facts import gather, reference
from cloud_hub.services import Service
from cloud_hub.store.tables import ChannelRow, RolloutEvent, RolloutRow
from fleet.protocol.channel import Channel, ModelEntry, decode_channel
from fleet.rollouts import machine
from fleet.rollouts.machine import Decision, Plan, Progress

log = logging.getLogger(__name__)
GUARD = "guard"


class RolloutEngine(Engine):
    """Steps all live rollouts every `engines.rollout_tick_s` seconds."""

    name = "rollouts"

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, hub.config.engines.rollout_tick_s)

    def look(self) -> None:
        """Look at every rollout once."""
        with self._hub.reading() as session:
            live = select(RolloutRow.id).where(col(RolloutRow.state).not_in(machine.ENDED))
            ids = [*session.exec(live), *_unfinished(session)]
        for rollout in dict.fromkeys(ids):
            self._step_one(rollout)

    def _step_one(self, rollout: str) -> None:
        with self._hub.session() as session:
            row = session.get(RolloutRow, rollout)
            assert row is not None
            plan, progress = read(row)
            channel = session.get(ChannelRow, row.channel)
            if channel is not None and row.state not in machine.ENDED:
                document = decode_channel(channel.document)
                facts = gather(session, plan, progress, document, self._hub.device_tokens.group_secret)
                decision = machine.decide(plan, progress, facts, self._hub.clock())
                if decision.progress != progress:
                    store(session, row, decision, self._hub.clock())
                for event in decision.events:
                    self._hub.audit(session, GUARD, f"rollout.{event.name}", rollout, {"reason": event.reason})
        carry_out(self._hub, rollout, actor=GUARD)


def read(row: RolloutRow) -> tuple[Plan, Progress]:
    """The stored plan and progress."""
    return msgspec.convert(row.plan, Plan), msgspec.convert(row.progress, Progress)


def store(session: Session, row: RolloutRow, decision: Decision, now: float) -> None:
    """Write a decision's progress and events, in the caller's transaction."""
    progress = decision.progress
    row.progress = msgspec.to_builtins(progress)
    row.state, row.attempt, row.reason = progress.state, progress.attempt, progress.reason
    row.ended_at, row.updated_at = progress.ended_at, now
    session.add(row)
    session.flush()
    for event in decision.events:
        session.add(RolloutEvent(rollout=row.id, at=now, event=event.name, detail={"reason": event.reason}))


def carry_out(hub: Hub, rollout: str, *, actor: str) -> None:
    """Make the channel hold what the stored progress wants; nothing happens when it does already."""
    with hub.reading() as session:
        row = session.get(RolloutRow, rollout)
        assert row is not None
        plan, progress = read(row)
        channel = session.get(ChannelRow, row.channel)
        document = None if channel is None else decode_channel(channel.document)
    if document is None or plan.model not in document.models:
        return
    if changed(document.models[plan.model], plan, progress) == document.models[plan.model]:
        return

    def change(current: Channel) -> Channel:
        entry = current.models.get(plan.model)
        if entry is None:
            return current
        return replace(current, models={**current.models, plan.model: changed(entry, plan, progress)})

    # A halt must not wait for stragglers: it is told to all at once.
    hub.publisher.change_channel(plan.channel, change, actor=actor, spread_s=0, create=False)
    log.info("rollout %s: channel %s now says %s", rollout, plan.channel, progress.state)


def changed(entry: ModelEntry, plan: Plan, progress: Progress) -> ModelEntry:
    """The channel's entry as the progress wants it; the same entry when another rollout owns it."""
    action = machine.wanted(plan, progress)
    if entry.rollout is not None and entry.rollout.id != plan.id:
        return entry
    if isinstance(action, machine.Publish):
        if entry.release != plan.from_release:
            return entry  # somebody changed the default; the next step finds that out and aborts
        return replace(entry, rollout=reference(plan, action.share_ppm, action.attempt))
    if entry.rollout is None:
        return entry
    if isinstance(action, machine.Promote):
        return replace(entry, release=action.release, rollout=None)
    return replace(entry, rollout=None)


def _unfinished(session: Session) -> list[str]:
    """Rollouts that have ended but still stand in their channel: a crash came between."""
    named = [
        entry.rollout.id
        for row in session.exec(select(ChannelRow))
        for entry in decode_channel(row.document).models.values()
        if entry.rollout is not None
    ]
    ended = select(RolloutRow.id).where(col(RolloutRow.id).in_(named), col(RolloutRow.state).in_(machine.ENDED))
    return list(session.exec(ended)) if named else []


def services(hub: Hub) -> list[Service]:
    """The services of this package."""
    return [RolloutEngine(hub)]

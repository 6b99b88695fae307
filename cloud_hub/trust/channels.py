"""Channels as the API shows them, and what an operator changes about them. Every change is a new signed version."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.store.tables import ChannelRow
from fleet.api.channels import ChangedChannel, ChannelChanges, ChannelInfo, EntryChanges
from fleet.protocol.channel import Channel, ModelEntry, decode_channel, with_requirements
from fleet.protocol.codec import to_document
from fleet.protocol.names import check_name
from fleet.rollouts.errors import PlanError
from fleet.rollouts.usual import UsualSchedule, check_usual


def list_channels(hub: Hub) -> list[ChannelInfo]:
    """Every channel by name, with its document."""
    with hub.reading() as session:
        return [_shown(row) for row in session.exec(select(ChannelRow).order_by(col(ChannelRow.name)))]


def show_channel(hub: Hub, name: str) -> ChannelInfo:
    """One channel; NotFoundError when there is none."""
    with hub.reading() as session:
        row = session.get(ChannelRow, name)
    if row is None:
        raise NotFoundError(f"no channel {name!r}", subject=name, hint="list them: fleet channel list")
    return _shown(row)


def create_channel(hub: Hub, name: str, *, actor: str) -> ChangedChannel:
    """Create a channel that names no model yet.

    Args:
        hub: the hub.
        name: of the channel.
        actor: as in the audit log.

    Raises:
        ConflictError: there is one of this name.
    """

    def refuse_second(session: Session) -> None:
        if session.get(ChannelRow, name) is not None:
            raise ConflictError(f"channel {name!r} exists", subject=name, hint=f"see it: fleet channel show {name}")

    channel = hub.publisher.change_channel(name, lambda new: new, actor=actor, first=refuse_second)
    return ChangedChannel(name=name, version=channel.version, document=channel)


def delete_channel(hub: Hub, name: str, *, actor: str) -> ChannelInfo:
    """Delete a channel that nobody follows; raises as `trust.removal` does.

    Args:
        hub: the hub.
        name: of the channel.
        actor: as in the audit log.
    """
    return _shown(hub.publisher.delete_channel(name, actor=actor))


def remove_model(hub: Hub, name: str, model: str, *, actor: str) -> ChangedChannel:
    """Take a model off a channel.

    Args:
        hub: the hub.
        name: of the channel.
        model: the one to take off.
        actor: as in the audit log.

    Raises:
        NotFoundError: no such channel, or it does not hold the model. ConflictError: a rollout of it runs there.
    """

    def change(channel: Channel) -> Channel:
        entry = channel.models.get(model)
        if entry is None:
            raise NotFoundError(
                f"channel {name!r} does not hold model {model!r}",
                subject=f"{name}/{model}",
                hint=f"see what it holds: fleet channel show {name}",
            )
        if entry.rollout is not None:
            raise _rollout_runs(entry.rollout.id, f"{name}/{model}")
        return msgspec.structs.replace(channel, models={k: v for k, v in channel.models.items() if k != model})

    return _publish(hub, name, change, actor, 0, create=False)


def set_model(hub: Hub, name: str, model: str, wanted: EntryChanges, *, actor: str) -> ChangedChannel:
    """Set a model's default release and policies; the channel is made when it does not exist.

    Args:
        hub: the hub.
        name: of the channel.
        model: the one to set.
        wanted: the fields to change; those that are not given stay.
        actor: as in the audit log.

    Raises:
        InvalidError, MalformedError: a name, number or policy that is not acceptable, or an auditor without a cloud
            variant.
        ConflictError: another default or auditor while a rollout runs.
    """
    check_name(model, "model")

    def change(channel: Channel) -> Channel:
        entry = changed_entry(channel.models.get(model), wanted, f"{name}/{model}")
        return with_requirements(msgspec.structs.replace(channel, models={**channel.models, model: entry}))

    return _publish(hub, name, change, actor, wanted.spread_s, create=True)


def change_channel(hub: Hub, name: str, wanted: ChannelChanges, *, actor: str) -> ChangedChannel:
    """Set how devices of the channel report and fetch, and what its rollouts take for usual.

    Args:
        hub: the hub.
        name: of the channel.
        wanted: the fields to change; those that are not given stay.
        actor: as in the audit log.

    Raises:
        NotFoundError: no such channel. InvalidError: a schedule that nothing can follow.
    """
    if wanted.schedule and not (wanted.telemetry or wanted.fetching):  # nothing that devices read
        with hub.session() as session:
            return _keep_schedule(hub, session, name, wanted, actor)

    def keep(session: Session) -> None:
        if wanted.schedule:
            _keep_schedule(hub, session, name, wanted, actor)

    def change(channel: Channel) -> Channel:
        return msgspec.structs.replace(
            channel,
            telemetry=wanted.telemetry.applied(channel.telemetry),
            fetching=wanted.fetching.applied(channel.fetching),
        )

    return _publish(hub, name, change, actor, wanted.spread_s, create=False, also=keep)


def _keep_schedule(hub: Hub, session: Session, name: str, wanted: ChannelChanges, actor: str) -> ChangedChannel:
    row = session.get(ChannelRow, name, with_for_update=True)
    if row is None:
        raise NotFoundError(f"no channel {name!r}", subject=name, hint="list them: fleet channel list")
    try:
        usual = check_usual(wanted.schedule.applied(usual_of(row)), hub.clock())
    except PlanError as error:
        raise InvalidError(str(error), subject=name, hint=error.hint) from error
    row.usual_schedule = to_document(usual) if usual else None
    session.add(row)
    hub.audit(session, actor, "channel.schedule", name, {"usual": usual.said()})
    return ChangedChannel(name=name, version=row.version, document=decode_channel(row.document))


def usual_of(row: ChannelRow) -> UsualSchedule:
    """Return the schedule that a channel's rollouts take where they say nothing themselves."""
    return msgspec.convert(row.usual_schedule or {}, UsualSchedule)


def changed_entry(entry: ModelEntry | None, wanted: EntryChanges, subject: str) -> ModelEntry:
    """Return the model's entry after the change.

    Args:
        entry: the model's entry on the channel; None where it is new there.
        wanted: the fields to change; those that are not given stay.
        subject: channel and model, for the message.

    Raises:
        InvalidError: a new entry without a release.
        ConflictError: another default while a rollout runs, or another auditor (it is pinned).
    """
    if entry is None:
        if wanted.release is None:
            raise InvalidError("a new model on a channel needs a release", subject=subject, hint="give --release N")
        entry = ModelEntry(release=wanted.release)
    if wanted.release not in (None, entry.release) and entry.rollout is not None:
        raise _rollout_runs(entry.rollout.id, subject)
    changed = msgspec.structs.replace(
        entry,
        release=entry.release if wanted.release is None else wanted.release,
        routing=wanted.routing.applied(entry.routing),
        audit=wanted.audit.applied(entry.audit),
        sampling=wanted.sampling.applied(entry.sampling),
        probation=wanted.probation.applied(entry.probation),
        bench=wanted.bench.applied(entry.bench),
    )
    if entry.rollout is not None and changed.audit.auditor != entry.audit.auditor:
        raise ConflictError("the auditor is pinned while a rollout runs", subject=subject, hint="wait, or abort it")
    return changed


def _publish(
    hub: Hub,
    name: str,
    change: Callable[[Channel], Channel],
    actor: str,
    spread_s: int,
    *,
    create: bool,
    also: Callable[[Session], None] | None = None,
) -> ChangedChannel:
    channel = hub.publisher.change_channel(name, change, actor=actor, spread_s=spread_s, create=create, also=also)
    return ChangedChannel(name=name, version=channel.version, document=channel)


def _rollout_runs(rollout: str, subject: str) -> ConflictError:
    return ConflictError(f"rollout {rollout} is running", subject=subject, hint=f"fleet rollout abort {rollout}")


def _shown(row: ChannelRow) -> ChannelInfo:
    return ChannelInfo(
        name=row.name,
        version=row.version,
        updated_at=row.updated_at,
        spread_s=row.spread_s,
        document=decode_channel(row.document),
        schedule=usual_of(row),
    )

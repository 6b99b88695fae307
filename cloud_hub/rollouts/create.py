"""A new rollout: checks, plan, salt, rows, and the first stage."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from random import SystemRandom
from typing import Any

from msgspec import Struct, structs, to_builtins
from sqlmodel import Session, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.identity.groups import group_id
from cloud_hub.rollouts.capabilities import required
from cloud_hub.rollouts.engine import document_of, followers, settle, store, with_progress
from cloud_hub.rollouts.members import Scoped, scoped
from cloud_hub.rollouts.outlook import situation
from cloud_hub.store.pairing import MOST_INPUTS
from cloud_hub.store.tables import ChannelRow, RolloutRow, UsedSalt
from cloud_hub.trust.channels import usual_of
from cloud_hub.trust.rows import get_model, get_release, refuse_stranger, status_in_words
from fleet import tasks
from fleet.protocol.channel import Channel, ModelEntry, decode_channel
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.shadow import CAPABILITY
from fleet.rollouts import cohorts, machine, pacing
from fleet.rollouts.errors import RolloutError
from fleet.rollouts.forecast import Forecast, forecast
from fleet.rollouts.guard_policy import GuardPolicy, load_policy
from fleet.rollouts.plan import Plan
from fleet.rollouts.schedule import Schedule, check_schedule
from fleet.rollouts.shadow import ShadowPlan, check_shadow_plan
from fleet.rollouts.shadow_forecast import with_shadow
from fleet.rollouts.stages import Stage, plan_stages
from fleet.rollouts.usual import UsualSchedule


class Proposal(Struct, frozen=True, kw_only=True):
    """A rollout that somebody asks for.

    `stages` are per cent, rising to 100. Only devices in one of `groups`, opaque ids or labels `key=value`, can belong
    to the cohort. `schedule` says when it may order, and on how many devices in a minute; `usual`, whether a channel's
    usual schedule holds where it says nothing. `guard` holds settings of a `GuardPolicy`, `shadow` fields of a
    `ShadowPlan`, for a shadow stage before the others.
    """

    model: str
    release: int
    channel: str
    stages: Sequence[float]
    guard: dict[str, Any] | None = None
    soak_s: float = 0.0
    groups: Sequence[str] = ()
    schedule: Schedule | None = None
    usual: bool = True
    shadow: dict[str, Any] | None = None


class Prospect(Struct, frozen=True, kw_only=True):
    """A rollout that may start, and what it will take; `groups` are opaque ids, `free` the ids of the devices that can
    belong to its cohort."""

    model: str
    channel: str
    release: int
    from_release: int
    stages: tuple[Stage, ...]
    policy: GuardPolicy
    groups: tuple[str, ...]
    free: list[str]
    forecast: Forecast
    schedule: Schedule | None = None
    shadow: ShadowPlan | None = None


def create_rollout(hub: Hub, *, actor: str, **wanted: Any) -> RolloutRow:
    """Start a rollout in one go; arguments are those of `Proposal`, errors those of `look_ahead` and
    `start_rollout`."""
    settle(hub, wanted["channel"], actor=actor)
    return start_rollout(hub, look_ahead(hub, Proposal(**wanted)), actor=actor)


def start_rollout(hub: Hub, ahead: Prospect, *, actor: str) -> RolloutRow:
    """Start moving the channel from its default release of the model to another, in stages.

    The salt is drawn first, since that takes seconds with many devices. Then one publishing transaction checks
    everything again, writes the rows and publishes the first stage: among rollouts, channel changes and withdrawals
    that come at the same moment, this one is before or after each of them, never in between.

    Raises:
        ConflictError: it could never finish, a rollout of the model is live on the channel, the release is not
            published, or the channel's default changed meanwhile.
        InvalidError: stages that no cohort of these devices fits.
    """
    if ahead.forecast.endless:
        what = f"this rollout could never finish: {ahead.forecast.endless}"
        raise ConflictError(what, subject=ahead.channel, hint=ahead.forecast.add)
    try:
        plan = _plan(hub, ahead)
        now = hub.clock()
        decision = machine.start(plan, now)
    except RolloutError as error:
        raise InvalidError(str(error), subject=error.subject, hint=error.hint) from error
    row = _row_of(plan, decision.progress.state, now, actor)

    def check(session: Session) -> None:
        if _startable(session, plan.model, plan.release, plan.channel)[1].release != plan.from_release:
            raise ConflictError(
                f"channel {plan.channel!r} was changed meanwhile", subject=plan.channel, hint="try again"
            )

    def keep(session: Session) -> None:
        session.add(UsedSalt(salt=plan.salt))
        store(session, row, decision, now)
        shares = [stage.share_ppm / 10_000 for stage in plan.stages]
        detail = {"release": plan.release, "channel": plan.channel, "stages": shares}
        hub.audit(session, actor, "rollout.create", plan.id, detail)

    with hub.reading() as session:
        spread_s = pacing.spread_s(plan, decision.progress, followers(session, plan.channel))
    change = partial(with_progress, plan=plan, progress=decision.progress)
    hub.publisher.change_channel(
        plan.channel, change, actor=actor, spread_s=spread_s, create=False, first=check, also=keep
    )
    return row


def _row_of(plan: Plan, state: machine.State, now: float, actor: str) -> RolloutRow:
    return RolloutRow(
        id=plan.id,
        model=plan.model,
        channel=plan.channel,
        release=plan.release,
        from_release=plan.from_release,
        state=state,
        salt=plan.salt,
        plan=document_of(plan),
        created_at=now,
        created_by=actor,
        updated_at=now,
    )


def look_ahead(hub: Hub, proposed: Proposal) -> Prospect:
    """Forecast a rollout; changes nothing.

    Raises:
        NotFoundError: no such model, release or channel entry, or no device of the channel is in a group.
        ConflictError: the release is not published, or a rollout of the model is live on the channel.
        InvalidError: stages, guard or schedule that make no plan.
    """
    secret = hub.device_tokens.group_secret
    model, release, channel, schedule = proposed.model, proposed.release, proposed.channel, proposed.schedule
    try:
        planned, policy = plan_stages(proposed.stages, soak_s=proposed.soak_s), load_policy(proposed.guard or {})
        before = None if proposed.shadow is None else check_shadow_plan(ShadowPlan(**proposed.shadow))
        with hub.reading() as session:
            document, entry = _startable(session, model, release, channel)
            kept = _usual(session, channel) if proposed.usual else UsualSchedule()
            asked, schedule = schedule, kept.completed(schedule)
            if schedule is not None:
                check_schedule(schedule, hub.clock())
            if entry.release == release:
                raise InvalidError(f"channel {channel!r} already runs release {release} of {model!r}", subject=model)
            devices = list(scoped(session, secret, required(session, model, release), channel=channel))
            wanted = known_groups(devices, channel, proposed.groups, secret)
            at, free = situation(session, document, model, release, wanted, devices, hub.clock())
            ahead = forecast(policy, planned, at, _after(schedule, before, at.now))
            ahead = structs.replace(ahead, notes=(*_taken(kept, asked or Schedule()), *ahead.notes))
            if before is not None:
                ahead = _with_shadow(session, ahead, before, policy, secret, free, (model, release))
    except RolloutError as error:
        raise InvalidError(str(error), subject=error.subject, hint=error.hint) from error
    return Prospect(
        model=model,
        channel=channel,
        release=release,
        from_release=entry.release,
        stages=planned,
        policy=policy,
        groups=wanted,
        free=free,
        forecast=ahead,
        schedule=schedule,
        shadow=before,
    )


def _usual(session: Session, channel: str) -> UsualSchedule:
    row = session.get(ChannelRow, channel)
    return UsualSchedule() if row is None else usual_of(row)


def _taken(usual: UsualSchedule, asked: Schedule) -> Iterator[str]:
    """Yield notes for an operator who asked for less than the channel's usual schedule adds."""
    window, rate = "" if asked.window else usual.window, None if asked.rate else usual.rate
    if taken := structs.replace(usual, window=window, rate=rate):
        yield f"the channel's usual schedule holds ({taken.said()}); --no-usual takes none of it"


def _after(schedule: Schedule | None, shadow: ShadowPlan | None, now: float) -> Schedule | None:
    """The schedule of the stages that follow a shadow stage, which takes its least time first."""
    if schedule is None or shadow is None:
        return schedule
    return structs.replace(schedule, start_at=max(now, schedule.start_at or now) + shadow.seconds)


def _with_shadow(
    session: Session,
    ahead: Forecast,
    plan: ShadowPlan,
    policy: GuardPolicy,
    secret: bytes,
    free: Sequence[str],
    about: tuple[str, int],
) -> Forecast:
    """The forecast with the shadow stage; `about` is the release."""
    unable = [device.id for device in scoped(session, secret, (CAPABILITY,), ids=sorted(free)) if device.lacks]
    compares = tasks.of_manifest(decode_manifest(get_release(session, *about).manifest)).compares
    return with_shadow(ahead, plan, policy, unable=unable, compares=compares, most_per_device=MOST_INPUTS)


def known_groups(devices: Iterable[Scoped], channel: str, groups: Sequence[str], secret: bytes) -> tuple[str, ...]:
    """Return the opaque ids of groups.

    Args:
        devices: the channel's.
        channel: its name.
        groups: ids, or labels as `key=value`.
        secret: the key by which ids are made.

    Raises:
        NotFoundError: no device is in a group.
    """
    known = {group for device in devices for group in device.groups} if groups else set()
    found = []
    for text in groups:
        key, equals, value = text.partition("=")
        found.append(group_id(secret, key, value) if equals else text)
        if found[-1] not in known:
            raise NotFoundError(
                f"no device of channel {channel!r} is in group {text!r}",
                subject=text,
                hint=f"see: fleet device list --channel {channel}; set a label: fleet device label ID key=value",
            )
    return tuple(found)


def _startable(session: Session, model: str, release: int, channel: str) -> tuple[Channel, ModelEntry]:
    """The channel and its entry of the model, when a rollout to `release` may start there."""
    document = _channel(session, channel, model)
    entry = document.models[model]
    get_release(session, model, release)
    status = status_in_words(session, model, release)
    if status != "published":
        raise ConflictError(f"release {release} of {model!r} is {status}", subject=f"{model}/{release}")
    refuse_stranger(session, model, release)
    if entry.rollout is not None or _live(session, model, channel):
        raise ConflictError(
            f"a rollout of {model!r} is live on channel {channel!r}",
            subject=channel,
            hint="wait for its end, or abort it: fleet rollout status",
        )
    return document, entry


def _channel(session: Session, channel: str, model: str) -> Channel:
    get_model(session, model)
    row = session.get(ChannelRow, channel)
    document = decode_channel(row.document) if row is not None else None
    if document is None or model not in document.models:
        raise NotFoundError(
            f"channel {channel!r} does not hold model {model!r}",
            subject=channel,
            hint=f"set its first release: fleet channel set {channel} --model {model} --release N",
        )
    return document


def _live(session: Session, model: str, channel: str) -> bool:
    rows = session.exec(select(RolloutRow.state).where(RolloutRow.model == model, RolloutRow.channel == channel))
    return any(state not in machine.ENDED for state in rows)


def _plan(hub: Hub, ahead: Prospect) -> Plan:
    with hub.reading() as session:
        used = set(session.exec(select(UsedSalt.salt)))
    shares, least = [stage.share_ppm for stage in ahead.stages], ahead.policy.min_devices
    salt = cohorts.draw_salt(SystemRandom(), ahead.free, shares, used, at_least=least)
    return machine.checked_plan(
        Plan(
            id=f"r-{secrets.token_hex(4)}",
            model=ahead.model,
            channel=ahead.channel,
            release=ahead.release,
            from_release=ahead.from_release,
            stages=ahead.stages,
            salt=salt,
            groups=ahead.groups,
            policy=to_builtins(ahead.policy),
            schedule=ahead.schedule,
            shadow=ahead.shadow,
        )
    )

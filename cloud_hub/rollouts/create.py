"""A new rollout: checks, plan, salt, rows, and the first stage."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from random import SystemRandom
from typing import Any

from msgspec import Struct
from sqlmodel import Session, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.identity.groups import group_id, groups_of
from cloud_hub.rollouts.engine import document_of, settle, store, with_progress
from cloud_hub.rollouts.facts import scope
from cloud_hub.rollouts.outlook import situation
from cloud_hub.store.tables import ChannelRow, RolloutRow, UsedSalt
from cloud_hub.trust.rows import get_model, get_release, refuse_stranger, status_in_words
from fleet.protocol.channel import Channel, ModelEntry, decode_channel
from fleet.rollouts import cohorts, machine
from fleet.rollouts.errors import RolloutError
from fleet.rollouts.forecast import Forecast, forecast
from fleet.rollouts.guard import GuardPolicy, load_policy
from fleet.rollouts.stages import Stage, plan_stages


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


def create_rollout(hub: Hub, *, actor: str, **wanted: Any) -> RolloutRow:
    """Start a rollout in one go; arguments and errors are those of `look_ahead` and `start_rollout`."""
    settle(hub, wanted["channel"], actor=actor)
    return start_rollout(hub, look_ahead(hub, **wanted), actor=actor)


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
    row = RolloutRow(
        id=plan.id, model=plan.model, channel=plan.channel, release=plan.release, from_release=plan.from_release,
        state="running", salt=plan.salt, plan=document_of(plan), created_at=now, created_by=actor, updated_at=now,
    )  # fmt: skip

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

    change = partial(with_progress, plan=plan, progress=decision.progress)
    hub.publisher.change_channel(plan.channel, change, actor=actor, create=False, first=check, also=keep)
    return row


def look_ahead(
    hub: Hub,
    *,
    model: str,
    release: int,
    channel: str,
    stages: Sequence[float],
    guard: dict[str, Any] | None = None,
    soak_s: float = 0.0,
    groups: Sequence[str] = (),
) -> Prospect:
    """What a rollout would take; changes nothing.

    Args:
        stages: per cent, rising to 100.
        groups: only devices in one of them can belong to the cohort: opaque ids, or labels `key=value`.

    Raises:
        NotFoundError: no such model, release or channel entry, or no device of the channel is in a group.
        ConflictError: the release is not published, or a rollout of the model is live on the channel.
        InvalidError: stages or guard that make no plan.
    """
    secret = hub.device_tokens.group_secret
    try:
        planned, policy = plan_stages(stages, soak_s=soak_s), load_policy(guard or {})
        with hub.reading() as session:
            document, entry = _startable(session, model, release, channel)
            if entry.release == release:
                raise InvalidError(f"channel {channel!r} already runs release {release} of {model!r}", subject=model)
            wanted = known_groups(session, channel, groups, secret)
            at, free = situation(session, document, model, release, wanted, secret, hub.clock())
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
        forecast=forecast(policy, planned, at),
    )


def known_groups(session: Session, channel: str, groups: Sequence[str], secret: bytes) -> tuple[str, ...]:
    """The opaque ids of groups, given by id or as a label `key=value`; NotFoundError for one that no device is in."""
    known = {group for device in scope(session, channel) for group in groups_of(secret, device.labels)}
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


def _plan(hub: Hub, ahead: Prospect) -> machine.Plan:
    with hub.reading() as session:
        used = set(session.exec(select(UsedSalt.salt)))
    shares, least = [stage.share_ppm for stage in ahead.stages], ahead.policy.min_devices
    salt = cohorts.draw_salt(SystemRandom(), ahead.free, shares, used, at_least=least)
    return machine.make_plan(
        id=f"r-{secrets.token_hex(4)}", model=ahead.model, channel=ahead.channel, release=ahead.release,
        from_release=ahead.from_release, stages=ahead.stages, salt=salt, groups=ahead.groups, policy=ahead.policy,
    )  # fmt: skip

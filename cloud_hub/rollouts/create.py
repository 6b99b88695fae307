"""A new rollout: checks, plan, salt, rows, and the first stage."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from random import SystemRandom
from typing import Any

from sqlmodel import Session, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.identity.groups import group_id, groups_of
from cloud_hub.rollouts.capabilities import lacking, required
from cloud_hub.rollouts.engine import document_of, settle, store, with_progress
from cloud_hub.rollouts.facts import scope
from cloud_hub.store.tables import ChannelRow, RolloutRow, UsedSalt
from cloud_hub.trust.rows import get_model, get_release, refuse_stranger, status_in_words
from fleet.protocol.channel import ModelEntry, decode_channel
from fleet.rollouts import cohorts, machine
from fleet.rollouts.errors import RolloutError
from fleet.rollouts.stages import plan_stages


def create_rollout(
    hub: Hub,
    *,
    model: str,
    release: int,
    channel: str,
    stages: Sequence[float],
    guard: dict[str, Any] | None = None,
    soak_s: float = 0.0,
    groups: Sequence[str] = (),
    actor: str,
) -> RolloutRow:
    """Start moving `channel` from its default release of `model` to `release`, in stages (per cent).

    The salt is drawn first, since that takes seconds with many devices. Then one publishing transaction checks
    everything again, writes the rows and publishes the first stage: among rollouts, channel changes and withdrawals
    that come at the same moment, this one is before or after each of them, never in between.

    Raises:
        NotFoundError: no such model, release or channel entry, or no device of the channel is in a group.
        ConflictError: the release is not published, a rollout of the model is live on the channel, or the channel's
            default changed meanwhile.
        InvalidError: stages or guard that make no plan.
    """
    settle(hub, channel, actor=actor)
    try:
        with hub.reading() as session:
            entry = _startable(session, model, release, channel)
            wanted = known_groups(session, channel, groups, hub.device_tokens.group_secret)
            plan = _plan(session, entry.release, model, release, channel, stages, guard, soak_s, wanted)
        now = hub.clock()
        decision = machine.start(plan, now)
    except RolloutError as error:
        raise InvalidError(str(error), subject=error.subject, hint=error.hint) from error
    row = RolloutRow(
        id=plan.id, model=model, channel=channel, release=release, from_release=plan.from_release, state="running",
        salt=plan.salt, plan=document_of(plan), created_at=now, created_by=actor, updated_at=now,
    )  # fmt: skip

    def check(session: Session) -> None:
        if _startable(session, model, release, channel).release != plan.from_release:
            raise ConflictError(f"channel {channel!r} was changed meanwhile", subject=channel, hint="try again")

    def keep(session: Session) -> None:
        session.add(UsedSalt(salt=plan.salt))
        store(session, row, decision, now)
        detail = {"release": release, "channel": channel, "stages": list(stages)}
        hub.audit(session, actor, "rollout.create", plan.id, detail)

    change = partial(with_progress, plan=plan, progress=decision.progress)
    hub.publisher.change_channel(channel, change, actor=actor, create=False, first=check, also=keep)
    return row


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


def cannot_follow(session: Session, model: str, release: int, channel: str) -> int:
    """How many devices of the channel lack a capability that the release requires."""
    needed = required(session, model, release)
    return sum(bool(lacking(device, needed)) for device in scope(session, channel)) if needed else 0


def _startable(session: Session, model: str, release: int, channel: str) -> ModelEntry:
    """The channel's entry of the model, when a rollout to `release` may start there."""
    entry = _entry(session, channel, model)
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
    return entry


def _entry(session: Session, channel: str, model: str) -> ModelEntry:
    get_model(session, model)
    row = session.get(ChannelRow, channel)
    document = decode_channel(row.document) if row is not None else None
    if document is None or model not in document.models:
        raise NotFoundError(
            f"channel {channel!r} does not hold model {model!r}",
            subject=channel,
            hint=f"set its first release: fleet channel set {channel} --model {model} --release N",
        )
    return document.models[model]


def _live(session: Session, model: str, channel: str) -> bool:
    rows = session.exec(select(RolloutRow.state).where(RolloutRow.model == model, RolloutRow.channel == channel))
    return any(state not in machine.ENDED for state in rows)


def _plan(
    session: Session,
    default: int,
    model: str,
    release: int,
    channel: str,
    stages: Sequence[float],
    guard: dict[str, Any] | None,
    soak_s: float,
    groups: tuple[str, ...],
) -> machine.Plan:
    planned = plan_stages(stages, soak_s=soak_s)
    needed = required(session, model, release)
    follow = (device for device in scope(session, channel) if not lacking(device, needed))
    devices = [device.id for device in follow if model not in device.pins]
    used = set(session.exec(select(UsedSalt.salt)))
    salt = cohorts.draw_salt(SystemRandom(), devices, [stage.share_ppm for stage in planned], used)
    return machine.make_plan(
        id=f"r-{secrets.token_hex(4)}", model=model, channel=channel, release=release, from_release=default,
        stages=planned, salt=salt, groups=groups, policy=guard or {},
    )  # fmt: skip

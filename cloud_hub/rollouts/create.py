"""A new rollout: checks, plan, salt, rows, and the first stage."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from random import SystemRandom
from typing import Any

import msgspec
from sqlmodel import Session, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.rollouts.capabilities import lacking, required
from cloud_hub.rollouts.engine import carry_out, store
from cloud_hub.rollouts.facts import scope
from cloud_hub.store.tables import ChannelRow, RolloutRow, UsedSalt
from cloud_hub.trust.rows import get_model, get_release
from fleet.protocol.channel import Channel, decode_channel
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

    Raises:
        NotFoundError: no such model, release or channel entry.
        ConflictError: the release is not published, or a rollout of the model is live on the channel.
        InvalidError: stages or guard that make no plan.
    """
    with hub.session() as session:
        document = _channel(session, channel, model)
        entry = document.models[model]
        _check_release(session, model, release)
        if entry.rollout is not None or _live(session, model, channel):
            raise ConflictError(
                f"a rollout of {model!r} is live on channel {channel!r}", subject=channel,
                hint="wait for its end, or abort it: fleet rollout status",
            )  # fmt: skip
        try:
            plan = _plan(session, entry.release, model, release, channel, stages, guard, soak_s, tuple(groups))
            decision = machine.start(plan, hub.clock())
        except RolloutError as error:
            raise InvalidError(str(error), subject=error.subject, hint=error.hint) from error
        now = hub.clock()
        row = RolloutRow(
            id=plan.id, model=model, channel=channel, release=release, from_release=entry.release, state="running",
            salt=plan.salt, plan=msgspec.to_builtins(plan), created_at=now, created_by=actor, updated_at=now,
        )  # fmt: skip
        session.add(UsedSalt(salt=plan.salt))
        session.add(row)
        store(session, row, decision, now)
        detail = {"release": release, "channel": channel, "stages": list(stages)}
        hub.audit(session, actor, "rollout.create", plan.id, detail)
    carry_out(hub, row.id, actor=actor)
    with hub.reading() as session:
        found = session.get(RolloutRow, row.id)
        assert found is not None
        return found


def cannot_follow(session: Session, model: str, release: int, channel: str) -> int:
    """How many devices of the channel lack a capability that the release requires."""
    needed = required(session, model, release)
    return sum(bool(lacking(device, needed)) for device in scope(session, channel)) if needed else 0


def _channel(session: Session, channel: str, model: str) -> Channel:
    get_model(session, model)
    row = session.get(ChannelRow, channel)
    document = decode_channel(row.document) if row is not None else None
    if document is None or model not in document.models:
        raise NotFoundError(
            f"channel {channel!r} does not hold model {model!r}", subject=channel,
            hint=f"set its first release: fleet channel set {channel} --model {model} --release N",
        )  # fmt: skip
    return document


def _check_release(session: Session, model: str, release: int) -> None:
    row = get_release(session, model, release)
    if row.status != "published":
        raise ConflictError(f"release {release} of {model!r} is {row.status}", subject=f"{model}/{release}")


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

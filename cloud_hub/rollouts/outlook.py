"""The hub's facts before a rollout: the devices that can belong to its cohort, and the traffic that they reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from msgspec.structs import replace
from sqlmodel import Session, col, func, select

from cloud_hub.rollouts import labelled
from cloud_hub.rollouts.facts import mute
from cloud_hub.rollouts.members import Scoped
from cloud_hub.store.pairing import MOST_INPUTS, servable, shared_inputs
from cloud_hub.store.tables import Device, PairEvidence, RolloutRow, WindowRow
from cloud_hub.trust.checks import partial_auditor, unproven_auditor
from cloud_hub.trust.rows import get_release
from fleet.protocol.channel import MILLION, Audit, Channel, RolloutRef
from fleet.protocol.manifest import Manifest, decode_manifest
from fleet.protocol.resolve import resolve
from fleet.rollouts.claims import OUTCOMES
from fleet.rollouts.signals import signal_of
from fleet.rollouts.situation import CannotFollow, ReportedTraffic, Scope, Situation

HOURS, HOUR_S = 24, 3600.0
WINDOWS = 100  # of each hour that are read, its last ones: what a fleet of any size costs


def situation(
    session: Session,
    channel: Channel,
    model: str,
    release: int,
    groups: tuple[str, ...],
    devices: Sequence[Scoped],
    now: float,
) -> tuple[Situation, list[str]]:
    """Gather the facts about a rollout of `release`, and the devices that can belong to its cohort.

    Args:
        groups: opaque ids; empty for all devices.
        devices: the channel's.
    """
    sampling, audit = channel.models[model].sampling, channel.models[model].audit
    compared = sorted({channel.models[model].release, release})
    scoped, free = _survey(channel, model, release, groups, devices)
    found = Situation(
        model=model,
        channel=channel.channel,
        scope=scoped,
        traffic=_traffic(session, channel.channel, model, scoped.total, now),
        audit=audit,
        most_per_device=MOST_INPUTS,
        now=now,
        labels=labelled.tells(session, model, release),
        samples=sampling.enabled and sampling.random_ppm > 0,
        mute=mute(session, model, audit),
        partial=_said(session, model, audit, compared, partial_auditor),
        unproven=_said(session, model, audit, compared, unproven_auditor),
    )
    return found, free


def _said(
    session: Session,
    model: str,
    audit: Audit,
    releases: Collection[int],
    check: Callable[[int, Manifest, Mapping[int, Manifest]], str],
) -> str:
    """Return what a check of the channel's auditor says against comparing `releases`; empty where there is none."""
    if audit.auditor is None:
        return ""
    auditor, *compared = (
        decode_manifest(get_release(session, model, number).manifest) for number in (audit.auditor, *releases)
    )
    return check(audit.auditor, auditor, dict(zip(releases, compared, strict=True)))


def _survey(
    channel: Channel, model: str, release: int, groups: tuple[str, ...], devices: Sequence[Scoped]
) -> tuple[Scope, list[str]]:
    """Each device asked by the rule that devices follow, at a share of 100 %."""
    entry = channel.models[model]
    whole = RolloutRef(
        id="forecast",
        attempt=1,
        release=release,
        from_release=entry.release,
        share_ppm=MILLION,
        salt="-",
        groups=groups,
    )
    assigned = replace(channel, models={model: replace(entry, rollout=whole)})
    counts = {"rollout": 0, "pin": 0, "rule": 0, "default": 0}
    free: list[str] = []
    hardware: Counter[str] = Counter()
    unnamed = 0
    unable: list[CannotFollow] = []
    for device in devices:
        if device.lacks:
            unable.append(CannotFollow(device=device.id, lacks=device.lacks))
            continue
        target = resolve(
            assigned, model, device.id, groups=device.groups, pin=device.pins.get(model), committed=entry.release
        )
        assert target is not None  # the model is on the channel
        counts[target.why] += 1
        if target.rollout is not None:
            free.append(device.id)
            hardware[device.hardware] += 1
            unnamed += not device.named  # an agent of 0.1
    found = Scope(
        free=len(free),
        pinned=counts["pin"],
        ruled=counts["rule"],
        outside=counts["default"],
        unable=tuple(unable),
        unnamed=unnamed,
        hardware=dict(hardware),
    )
    return found, free


def _traffic(session: Session, channel: str, model: str, devices: int, now: float) -> ReportedTraffic:
    """Means over the hours since the first window of the last day; of each hour its last `WINDOWS` windows are read."""
    hours = list(_hours(session, channel, model, now))
    while hours and hours[-1] is None:  # before the first window of the last day
        hours.pop()
    told = [hour or (0.0, 0.0, 0.0) for hour in hours]
    distinct, per_day = _distinct(session, channel, model), labelled.per_day(session, channel, model, now)
    if not told or not devices:
        return ReportedTraffic(distinct=distinct, labelled=per_day)
    requests, audited, windows = (sum(hour[place] for hour in told) / len(told) for place in range(3))
    return ReportedTraffic(
        hours=len(told),
        requests=requests * HOURS / devices,
        audited=audited * HOURS / devices,
        distinct=distinct,
        windows=windows * HOURS / devices,
        labelled=per_day,
    )


def _hours(session: Session, channel: str, model: str, now: float) -> Iterator[tuple[float, float, float] | None]:
    """Requests, audited ones, and windows that say something by themselves, of all devices per hour, from the last hour
    backwards; None without a window."""
    for number in range(HOURS):
        until = now - number * HOUR_S
        rows = session.exec(
            select(WindowRow.started_at, WindowRow.ended_at, WindowRow.body)
            .join(Device, col(Device.id) == col(WindowRow.device_id))
            .where(WindowRow.model == model, Device.channel == channel)
            .where(WindowRow.ended_at <= until, WindowRow.ended_at > until - HOUR_S)
            .order_by(col(WindowRow.ended_at).desc())
            .limit(WINDOWS)
        ).all()
        if not rows:
            yield None
            continue
        span = HOUR_S if len(rows) < WINDOWS else max(1.0, until - rows[-1][1])
        requests = audited = windows = 0.0
        for started, ended, body in rows:
            counters = body.get("counters", {})
            asked = float(min(counters.get("requests", 0), servable(started, ended)))
            requests += asked
            windows += signal_of(body) is not None
            audited += min(float(counters.get("audited", 0)), asked)
        yield requests * HOUR_S / span, audited * HOUR_S / span, windows * HOUR_S / span


def _distinct(session: Session, channel: str, model: str) -> float | None:
    """The share of inputs that were new among those that the last rollout with evidence counted.

    Without the devices that brought all that one may: what they met after that was booked as repeats, new or not.
    """
    alone = sum(func.sum(getattr(PairEvidence, name)) for name in OUTCOMES)
    found = session.exec(
        select(PairEvidence.rollout, PairEvidence.attempt, alone, func.sum(PairEvidence.repeats))
        .join(RolloutRow, col(RolloutRow.id) == col(PairEvidence.rollout))
        .where(RolloutRow.model == model, RolloutRow.channel == channel, PairEvidence.claimed < MOST_INPUTS)
        .group_by(col(RolloutRow.id), col(RolloutRow.created_at), col(PairEvidence.rollout), col(PairEvidence.attempt))
        .having(func.sum(PairEvidence.claimed) > 0)
        .order_by(col(RolloutRow.created_at).desc(), col(PairEvidence.attempt).desc())
        .limit(1)
    ).first()
    if found is None:
        return None
    rollout, attempt, alone_met, repeats = found
    new = float(alone_met) + shared_inputs(session, rollout, attempt).disputed
    return new / (new + float(repeats)) if new else None

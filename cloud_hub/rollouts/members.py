"""From the database's rows to the devices of a rollout, few columns of many rows at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Text, type_coerce
from sqlmodel import Session, col, select

from cloud_hub.identity.groups import group_ids
from cloud_hub.store.benchmarks import newest_p95
from cloud_hub.store.quiet import longest
from cloud_hub.store.rows import rows_by_key
from cloud_hub.store.tables import Device, DeviceModel, PairEvidence
from fleet.protocol.channel import MILLION, Channel, ModelEntry, RolloutRef
from fleet.protocol.resolve import cohort_place, resolve
from fleet.rollouts.columns import Member, Side
from fleet.rollouts.machine import DeviceFact, Plan, Progress
from fleet.rollouts.pairs import Pairs

# Reasons for which a device refuses a release as such; a lost network is none of them.
REFUSALS = ("gate-broken", "no-variant", "below-floor", "withdrawn", "unsupported:", "selftest-failed")
SHOWN = ("both", "only_old", "only_new", "neither", "answered", "local_failed", "newly_refused", "claimed")
REFUSED_SHARE = 0.01  # of a device's requests; more are no accident, since the release before took every one of them
REPORT = ("state", "active", "target", "rollout", "attempt", "reason", "untried", "at")
SAID = (*SHOWN, "repeats", "unnamed", "own_old", "own_new", "checked", "outvoted", "disputed", "silent_at", "reason")


class Scoped(Struct, frozen=True):
    """The properties of a device that decide its side, and its last signs of life; `lacks` of the wanted
    capabilities."""

    id: str
    channel: str
    revoked: bool
    groups: frozenset[str]
    pins: Mapping[str, int]
    lacks: tuple[str, ...]
    hardware: str
    named: bool  # it says its capabilities, or has not said anything yet
    last_seen: float
    quiet_s: float


class Report(Struct, frozen=True):
    """A device's report of the model; see `tables.DeviceModel`."""

    state: str = ""
    active: int | None = None
    target: int | None = None
    rollout: str = ""
    attempt: int = 0
    reason: str = ""
    untried: bool = False
    at: float = 0.0


class DeviceEvidence(Struct, frozen=True):
    """A device's evidence in the attempt; see `tables.PairEvidence`."""

    both: int = 0
    only_old: int = 0
    only_new: int = 0
    neither: int = 0
    answered: int = 0
    local_failed: int = 0
    newly_refused: int = 0
    claimed: int = 0
    repeats: int = 0
    unnamed: int = 0
    own_old: int = 0
    own_new: int = 0
    checked: int = 0
    outvoted: int = 0
    disputed: int = 0
    silent_at: float | None = None
    reason: str = ""


class Rules(Struct, frozen=True):
    """The rules that decide about a device of a rollout beside its own rows: the channel with the whole rollout in
    it, the capabilities that the release requires, and the secret of the groups."""

    plan: Plan
    progress: Progress
    channel: Channel
    needed: tuple[str, ...]
    secret: bytes


class _Info(Struct):
    capabilities: Any = None
    hardware: Any = None


class _Texts:
    """Documents by their text, since thousands of devices have the same labels."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._labels: dict[str, tuple[frozenset[str], str]] = {}
        self._pins: dict[str, dict[str, int]] = {}

    def labels(self, text: str) -> tuple[frozenset[str], str]:
        """The groups of labels, and what they say of the hardware."""
        known = self._labels.get(text)
        if known is None:
            labels: dict[str, str] = msgspec.json.decode(text)
            known = self._labels[text] = frozenset(group_ids(self._secret, labels)), labels.get("hw", "")
        return known

    def pins(self, text: str) -> dict[str, int]:
        """The pins."""
        if text not in self._pins:
            self._pins[text] = msgspec.json.decode(text)
        return self._pins[text]


def scoped(
    session: Session, secret: bytes, needed: Collection[str], *, channel: str = "", ids: Sequence[str] | None = None
) -> Iterator[Scoped]:
    """Devices in the order of their ids: those that follow a channel and are not revoked, or those of some ids.

    Args:
        secret: of the groups.
        needed: capabilities.
    """
    texts, info_of = _Texts(secret), msgspec.json.Decoder(_Info)
    documents = [type_coerce(column, Text) for column in (col(Device.labels), col(Device.pins), col(Device.info))]
    wanted = select(
        Device.id,
        Device.channel,
        Device.revoked_at,
        Device.last_seen_at,
        Device.quiet_s,
        Device.quiet_before_s,
        *documents,
    ).order_by(col(Device.id))  # type: ignore[call-overload]
    if ids is None:
        wanted = wanted.where(Device.channel == channel, col(Device.revoked_at).is_(None))
    for row in rows_by_key(session, wanted, Device.id, ids):
        device, follows, revoked_at, seen, quiet, before, labels, pins, told = row
        groups, hardware = texts.labels(labels)
        info = info_of.decode(told)
        capabilities = info.capabilities or ()
        machine = info.hardware.get("machine", "") if isinstance(info.hardware, dict) else ""
        yield Scoped(
            id=device,
            channel=follows,
            revoked=revoked_at is not None,
            groups=groups,
            pins=texts.pins(pins),
            lacks=tuple(sorted(set(needed) - set(capabilities))) if needed else (),
            hardware=hardware or str(machine),
            named=bool(capabilities) or told == "{}",
            last_seen=seen or 0.0,
            quiet_s=longest(quiet, before),
        )


def members(session: Session, rules: Rules, ids: Sequence[str] | None = None) -> Iterator[Member]:
    """Yield the devices that the rollout may concern, all or those of some ids; the others of these are left out."""
    plan, progress = rules.plan, rules.progress
    reports = {row[0]: Report(*row[1:]) for row in _reports(session, plan.model, ids)}
    said = {row[0]: DeviceEvidence(*row[1:]) for row in _said(session, plan.id, progress.attempt, ids)}
    measured = newest_p95(session, plan.model, plan.release, ids)
    seen: set[str] = set()
    nothing, silent = Report(), DeviceEvidence()
    met = [] if ids is not None else [n for n in {*reports, *said} if _met(rules, reports.get(n), said.get(n))]

    def made(device: Scoped) -> Member | None:
        report, told = reports.get(device.id), said.get(device.id)
        place = _place(rules, device, _met(rules, report, told))
        if place is None:
            return None
        p95_us = None if device.revoked else measured.get(device.id)
        return _member(rules, device, report or nothing, told or silent, p95_us, place)

    for device in scoped(session, rules.secret, rules.needed, channel=plan.channel, ids=ids):
        seen.add(device.id)
        if (member := made(device)) is not None:
            yield member
    for device in scoped(session, rules.secret, rules.needed, ids=sorted(set(met) - seen)):
        if (member := made(device)) is not None:
            yield member


def with_whole(channel: Channel, model: str, rollout: RolloutRef) -> Channel:
    """Return the channel as if the rollout held all of its devices."""
    entry: ModelEntry = channel.models[model]
    whole = msgspec.structs.replace(rollout, share_ppm=MILLION)
    return msgspec.structs.replace(
        channel, models={**channel.models, model: msgspec.structs.replace(entry, rollout=whole)}
    )


def heard_at(session: Session, ids: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield when devices were heard last."""
    for name, seen in rows_by_key(session, select(Device.id, Device.last_seen_at), Device.id, ids):
        yield name, seen or 0.0


def _place(rules: Rules, device: Scoped, met: bool) -> tuple[Side, bool] | None:
    """Return the side of a device, and whether it has met the release; None when the rollout does not concern it."""
    side: Side = "neither"
    if device.channel == rules.plan.channel and not device.revoked and not device.lacks:
        target = resolve(
            rules.channel,
            rules.plan.model,
            device.id,
            groups=device.groups,
            pin=device.pins.get(rules.plan.model),
            committed=rules.plan.from_release,
        )
        assert target is not None  # the model is on the channel
        side = "free" if target.rollout is not None else "control" if target.why == "default" else "neither"
    return None if side == "neither" and not met else (side, met)


def _met(rules: Rules, report: Report | None, said: DeviceEvidence | None) -> bool:
    """Tell whether the device has met the release in this attempt, by its own word: see `columns.StageFacts`, which
    believes only those that a stage so far can have held."""
    if said is not None and (said.reason or any(getattr(said, name) for name in SHOWN)):
        return True
    return report is not None and (report.rollout, report.attempt) == (rules.plan.id, rules.progress.attempt)


def _member(
    rules: Rules, device: Scoped, report: Report, said: DeviceEvidence, p95_us: float | None, place: tuple[Side, bool]
) -> Member:
    plan = rules.plan
    refused = _failed(rules, report)
    failed = bool(said.reason) or refused
    reason = said.reason or (report.reason if failed else _failing(said))
    fact = DeviceFact(
        device_id=device.id,
        last_seen=device.last_seen,
        hardware=device.hardware,
        committed=report.state == "committed" and report.active == plan.release,
        failed=failed or bool(reason),
        reason=reason,
        pairs=Pairs(
            both=said.both,
            only_old=said.only_old,
            only_new=said.only_new,
            neither=said.neither,
            repeats=said.repeats,
            unnamed=said.unnamed,
            claimed=said.claimed,
            own_old=said.own_old,
            own_new=said.own_new,
            checked=said.checked,
            outvoted=said.outvoted,
            disputed=said.disputed,
        ),
        untried=report.untried and not said.answered,
        p95_us=p95_us,
        quiet_s=device.quiet_s,
        silenced_at=said.silent_at,
    )
    rolled_back = report.state == "rolled_back" and report.at >= rules.progress.started_at
    side, met = place
    return Member(
        fact=fact,
        side=side,
        place=cohort_place(plan.salt, device.id),
        met=met,
        control_failed=rolled_back and report.target != plan.release,
        unmarked=refused and not said.reason,
    )


def _failing(said: DeviceEvidence) -> str:
    """Return why a device fails on which the release stays, in the words of its own probation; empty when it does not.

    Refused requests count that the release before would have taken. Those that both refuse prove nothing, so that
    rubbish stops no rollout.
    """
    asked = said.answered + said.local_failed + said.newly_refused
    if asked and not said.answered:
        return "no-good-answer"
    return "refusals" if said.newly_refused > REFUSED_SHARE * asked else ""


def _failed(rules: Rules, report: Report) -> bool:
    """Tell whether the device rolled this attempt back, or refuses the release as such."""
    if report.rollout != rules.plan.id or report.attempt != rules.progress.attempt:
        return False
    return report.state == "rolled_back" or (report.active != rules.plan.release and report.reason.startswith(REFUSALS))


def _reports(session: Session, model: str, ids: Sequence[str] | None) -> Iterator[Any]:
    columns = [getattr(DeviceModel, name) for name in ("device_id", *REPORT)]
    wanted = select(*columns).where(DeviceModel.model == model)
    return rows_by_key(session, wanted, DeviceModel.device_id, ids)


def _said(session: Session, rollout: str, attempt: int, ids: Sequence[str] | None) -> Iterator[Any]:
    columns = [getattr(PairEvidence, name) for name in ("device_id", *SAID)]
    wanted = select(*columns).where(PairEvidence.rollout == rollout, PairEvidence.attempt == attempt)
    return rows_by_key(session, wanted, PairEvidence.device_id, ids)

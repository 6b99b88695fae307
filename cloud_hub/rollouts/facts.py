"""From the database's rows to the facts that the rollout rules judge."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec.structs import replace
from sqlmodel import Session, col, select

from cloud_hub.identity.groups import groups_of
from cloud_hub.rollouts.capabilities import lacking, required
from cloud_hub.store.benchmarks import hardware_class, newest_p95
from cloud_hub.store.engine import lock_name
from cloud_hub.store.pairing import LOCK, row_of
from cloud_hub.store.quiet import habit
from cloud_hub.store.tables import Device, DeviceModel, PairEvidence
from cloud_hub.trust.rows import status_in_words
from fleet.protocol.channel import Channel, ModelEntry, RolloutRef
from fleet.protocol.resolve import resolve
from fleet.rollouts.cohorts import stage_of
from fleet.rollouts.evidence import Pairs
from fleet.rollouts.machine import DeviceFact, Facts, Plan, Progress

# Reasons for which a device refuses a release as such; a lost network is none of them.
REFUSALS = ("gate-broken", "no-variant", "below-floor", "withdrawn", "unsupported:", "selftest-failed")

SHOWN = ("both", "only_old", "only_new", "neither", "answered", "local_failed", "newly_refused")
REFUSED_SHARE = 0.01  # of a device's requests; more are no accident, since the release before took every one of them


def reference(plan: Plan, share_ppm: int, attempt: int) -> RolloutRef:
    """How the channel document names this rollout."""
    return RolloutRef(
        id=plan.id,
        attempt=attempt,
        release=plan.release,
        from_release=plan.from_release,
        share_ppm=share_ppm,
        salt=plan.salt,
        groups=plan.groups,
        measure=plan.policy.get("max_p95_us") is not None,
    )


def gather(session: Session, plan: Plan, progress: Progress, channel: Channel, group_secret: bytes) -> Facts:
    """What is known of the rollout's devices, with cohort and control by assignment at the current share."""
    entry = channel.models.get(plan.model)
    if entry is None or entry.release != plan.from_release:
        default = "gone" if entry is None else f"release {entry.release}"
        return Facts(superseded=f"the channel's default is {default}, not release {plan.from_release} any more")
    status = status_in_words(session, plan.model, plan.release)
    if status != "published":
        return Facts(withdrawn=f"release {plan.release} is {status}")
    share = plan.stages[progress.stage].share_ppm
    assigned = _with_rollout(channel, entry, reference(plan, share, progress.attempt), plan.model)
    reports = _reports(session, plan.model)
    said = _evidence(session, plan.id, progress.attempt)
    measured = newest_p95(session, plan.model, plan.release)
    cohort: list[DeviceFact] = []
    control: list[DeviceFact] = []
    left = _met(plan, progress, reports, said)
    needed = required(session, plan.model, plan.release)
    for device in scope(session, plan.channel):
        if lacking(device, needed):
            continue  # it is held back, and keeps what it has: neither cohort nor control
        target = resolve(
            assigned, plan.model, device.id, groups=frozenset(groups_of(group_secret, device.labels)),
            pin=device.pins.get(plan.model), committed=plan.from_release,
        )  # fmt: skip
        report = reports.get(device.id)
        if target is not None and target.rollout is not None:
            fact = _cohort_fact(plan, progress, device, report, said.get(device.id, _nothing(plan, device.id)))
            cohort.append(replace(fact, p95_us=measured.get(device.id)))
            left.discard(device.id)
        elif target is not None and target.why == "default" and device.id not in left:
            control.append(_control_fact(plan, progress, device, report, said.get(device.id)))
    return Facts(cohort=tuple(cohort), control=tuple(control), left=_left(session, plan, progress, left, reports, said))


def _met(
    plan: Plan, progress: Progress, reports: Mapping[str, DeviceModel], said: Mapping[str, PairEvidence]
) -> set[str]:
    """The devices that have met the release in this attempt, wherever they are by now.

    Only those that a stage so far can have held: any device may write what it likes into its reports.
    """
    attempt = (plan.id, progress.attempt)
    told = {device for device, row in said.items() if row.reason or any(getattr(row, name) for name in SHOWN)}
    told |= {device for device, row in reports.items() if (row.rollout, row.attempt) == attempt}
    held = {device: stage_of(plan.salt, device, plan.shares_ppm) for device in told}
    return {device for device, stage in held.items() if stage is not None and stage <= progress.stage}


def _left(
    session: Session,
    plan: Plan,
    progress: Progress,
    ids: set[str],
    reports: Mapping[str, DeviceModel],
    said: Mapping[str, PairEvidence],
) -> tuple[DeviceFact, ...]:
    found = []
    names = sorted(ids)
    for at in range(0, len(names), 500):
        rows = select(Device).where(col(Device.id).in_(names[at : at + 500])).order_by(col(Device.id))
        for device in session.exec(rows):
            row = said.get(device.id, _nothing(plan, device.id))
            found.append(_cohort_fact(plan, progress, device, reports.get(device.id), row))
    return tuple(found)


def mark(session: Session, plan: Plan, progress: Progress, facts: Facts, silent: Collection[str], now: float) -> None:
    """Keep what a device's next report would hide: that it was silent (`silent`: ids) or failed in this attempt."""
    failed = {fact.device_id: fact.reason or "failed" for fact in facts.cohort if fact.failed}
    if silent or failed:
        lock_name(session, LOCK)  # before the rows, as ingest does: else each waits for what the other holds
    for device in sorted({*silent, *failed}):
        row = row_of(session, plan.id, progress.attempt, device)
        if device in silent:
            row.silent_at = now
        report = session.get(DeviceModel, (device, plan.model))
        if device in failed and not row.reason and report is not None and _failed(plan, progress, report):
            row.reason = failed[device]
        session.add(row)


def scope(session: Session, channel: str) -> list[Device]:
    """The devices that follow a channel, in the order of their ids."""
    rows = select(Device).where(Device.channel == channel, col(Device.revoked_at).is_(None)).order_by(col(Device.id))
    return list(session.exec(rows))


def _with_rollout(channel: Channel, entry: ModelEntry, rollout: RolloutRef, model: str) -> Channel:
    return replace(channel, models={**channel.models, model: replace(entry, rollout=rollout)})


def _reports(session: Session, model: str) -> dict[str, DeviceModel]:
    return {row.device_id: row for row in session.exec(select(DeviceModel).where(DeviceModel.model == model))}


def _evidence(session: Session, rollout: str, attempt: int) -> dict[str, PairEvidence]:
    rows = session.exec(select(PairEvidence).where(PairEvidence.rollout == rollout, PairEvidence.attempt == attempt))
    return {row.device_id: row for row in rows}


def _nothing(plan: Plan, device_id: str) -> PairEvidence:
    return PairEvidence(rollout=plan.id, attempt=0, device_id=device_id)


def _cohort_fact(
    plan: Plan, progress: Progress, device: Device, report: DeviceModel | None, said: PairEvidence
) -> DeviceFact:
    failed = bool(said.reason) or (report is not None and _failed(plan, progress, report))
    committed = report is not None and report.state == "committed" and report.active == plan.release
    reason = said.reason or (report.reason if report is not None and failed else "" if failed else _failing(said))
    return DeviceFact(
        device_id=device.id,
        last_seen=device.last_seen_at or 0.0,
        hardware=hardware_class(device),
        committed=committed,
        failed=failed or bool(reason),
        reason=reason,
        pairs=Pairs(
            both=said.both, only_old=said.only_old, only_new=said.only_new, neither=said.neither,
            repeats=said.repeats, unnamed=said.unnamed,
        ),
        untried=report is not None and report.untried and not said.answered,
        quiet_s=habit(device), silenced_at=said.silent_at,
    )  # fmt: skip


def _failing(said: PairEvidence) -> str:
    """Why a device fails on which the release stays, in the words of its own probation; empty when it does not.

    Refused requests count that the release before would have taken. What both refuse says nothing, so that rubbish
    stops no rollout.
    """
    asked = said.answered + said.local_failed + said.newly_refused
    if asked and not said.answered:
        return "no-good-answer"
    return "refusals" if said.newly_refused > REFUSED_SHARE * asked else ""


def _failed(plan: Plan, progress: Progress, report: DeviceModel) -> bool:
    """Whether the device rolled this attempt back, or refuses the release as such."""
    if report.rollout != plan.id or report.attempt != progress.attempt:
        return False
    return report.state == "rolled_back" or (report.active != plan.release and report.reason.startswith(REFUSALS))


def _control_fact(
    plan: Plan, progress: Progress, device: Device, report: DeviceModel | None, said: PairEvidence | None
) -> DeviceFact:
    failed = report is not None and report.state == "rolled_back" and report.at >= progress.started_at
    return DeviceFact(
        device_id=device.id, last_seen=device.last_seen_at or 0.0, hardware=hardware_class(device),
        failed=failed and report is not None and report.target != plan.release,
        quiet_s=habit(device), silenced_at=None if said is None else said.silent_at,
    )  # fmt: skip

"""The facts of a rollout from all rows, device by device: what the hub keeps from step to step has to equal this.

Written for being read, not for speed: `gather` loads every row at every call.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace
from sqlmodel import Session, col, select

from cloud_hub.identity.groups import group_ids
from cloud_hub.rollouts.capabilities import lacking, required
from cloud_hub.rollouts.facts import reference
from cloud_hub.store.benchmarks import hardware_class, newest_p95
from cloud_hub.store.quiet import longest
from cloud_hub.store.tables import Device, DeviceModel, PairEvidence
from cloud_hub.trust.rows import status_in_words
from fleet.protocol.channel import Channel, ModelEntry, RolloutRef
from fleet.protocol.resolve import in_cohort, resolve
from fleet.rollouts.machine import DeviceFact, Plan, Progress, RolloutFacts
from fleet.rollouts.pairs import Pairs
from fleet.rollouts.plan import share_of

# Reasons for which a device refuses a release as such; a lost network is none of them.
REFUSALS = ("gate-broken", "no-variant", "below-floor", "withdrawn", "unsupported:", "selftest-failed")

SHOWN = ("both", "only_old", "only_new", "neither", "answered", "local_failed", "newly_refused")
REFUSED_SHARE = 0.01  # of a device's requests; more are no accident, since the release before took every one of them


def gather(session: Session, plan: Plan, progress: Progress, channel: Channel, group_secret: bytes) -> RolloutFacts:
    """The facts of the rollout's devices, with cohort and control by assignment at the current share."""
    entry = channel.models.get(plan.model)
    if entry is None or entry.release != plan.from_release:
        default = "gone" if entry is None else f"release {entry.release}"
        return RolloutFacts(superseded=f"the channel's default is {default}, not release {plan.from_release} any more")
    status = status_in_words(session, plan.model, plan.release)
    if status != "published":
        return RolloutFacts(withdrawn=f"release {plan.release} is {status}")
    share = share_of(plan, progress)
    assigned = _with_rollout(channel, entry, reference(plan, share, progress.attempt), plan.model)
    reports = _reports(session, plan.model)
    said = _evidence(session, plan.id, progress.attempt)
    measured = newest_p95(session, plan.model, plan.release)
    cohort: list[DeviceFact] = []
    control: list[DeviceFact] = []
    left = _met(plan, progress, reports, said)
    needed = required(session, plan.model, plan.release)
    for device in _scope(session, plan.channel):
        if lacking(device, needed):
            continue  # it is held back, and keeps what it has: neither cohort nor control
        target = resolve(
            assigned,
            plan.model,
            device.id,
            groups=frozenset(group_ids(group_secret, device.labels)),
            pin=device.pins.get(plan.model),
            committed=plan.from_release,
        )
        report = reports.get(device.id)
        if target is not None and target.rollout is not None:
            fact = _cohort_fact(plan, progress, device, report, said.get(device.id, _nothing(plan, device.id)))
            cohort.append(replace(fact, p95_us=measured.get(device.id)))
            left.discard(device.id)
        elif target is not None and target.why == "default" and device.id not in left:
            control.append(_control_fact(plan, progress, device, report, said.get(device.id)))
    return RolloutFacts(
        cohort=tuple(cohort), control=tuple(control), left=_left(session, plan, progress, left, reports, said)
    )


def _met(
    plan: Plan, progress: Progress, reports: Mapping[str, DeviceModel], said: Mapping[str, PairEvidence]
) -> set[str]:
    """The devices that have met the release in this attempt, wherever they are by now.

    Only those that a stage so far can have held: any device may write what it likes into its reports.
    """
    attempt = (plan.id, progress.attempt)
    told = {device for device, row in said.items() if row.reason or any(getattr(row, name) for name in SHOWN)}
    told |= {device for device, row in reports.items() if (row.rollout, row.attempt) == attempt}
    return {device for device in told if in_cohort(plan.salt, device, share_of(plan, progress))}


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


def _scope(session: Session, channel: str) -> list[Device]:
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
            both=said.both,
            only_old=said.only_old,
            only_new=said.only_new,
            neither=said.neither,
            repeats=said.repeats,
            unnamed=said.unnamed,
            claimed=said.claimed,
            checked=said.checked,
            outvoted=said.outvoted,
            disputed=said.disputed,
        ),
        untried=report is not None and report.untried and not said.answered,
        quiet_s=longest(device.quiet_s, device.quiet_before_s),
        silenced_at=said.silent_at,
    )


def _failing(said: PairEvidence) -> str:
    """The reason why a device fails on which the release stays, in the words of its own probation; empty when it does
    not.

    Refused requests count that the release before would have taken. What both refuse says nothing, so that rubbish
    stops no rollout.
    """
    asked = said.answered + said.local_failed + said.newly_refused
    if asked and not said.answered:
        return "no-good-answer"
    return "refusals" if said.newly_refused > REFUSED_SHARE * asked else ""


def _failed(plan: Plan, progress: Progress, report: DeviceModel) -> bool:
    """Tell whether the device rolled this attempt back, or refuses the release as such."""
    if report.rollout != plan.id or report.attempt != progress.attempt:
        return False
    return report.state == "rolled_back" or (report.active != plan.release and report.reason.startswith(REFUSALS))


def _control_fact(
    plan: Plan, progress: Progress, device: Device, report: DeviceModel | None, said: PairEvidence | None
) -> DeviceFact:
    failed = report is not None and report.state == "rolled_back" and report.at >= progress.started_at
    return DeviceFact(
        device_id=device.id,
        last_seen=device.last_seen_at or 0.0,
        hardware=hardware_class(device),
        failed=failed and report is not None and report.target != plan.release,
        quiet_s=longest(device.quiet_s, device.quiet_before_s),
        silenced_at=None if said is None else said.silent_at,
    )


def unmarked(session: Session, plan: Plan, progress: Progress, facts: RolloutFacts) -> dict[str, str]:
    """Devices of the cohort that failed in their reports, which is not in their evidence yet, with their reasons."""
    said = _evidence(session, plan.id, progress.attempt)
    found = {}
    for fact in facts.cohort:
        report = session.get(DeviceModel, (fact.device_id, plan.model))
        known = fact.device_id in said and said[fact.device_id].reason
        if fact.failed and not known and report is not None and _failed(plan, progress, report):
            found[fact.device_id] = fact.reason or "failed"
    return found

"""The response to an alarm: devices are asked for samples, and with the labels that come of them a retrain starts.

    asked        samples are asked for; the policy starts no retrain
    collecting   labels of samples from after the shift are awaited: as many as the policy says, or its deadline
    retraining   the job waits or runs
    retrained, failed, cancelled    the job's end
    closed       the alarm was closed before a job began

What is missing stands in the response in words. A job that cannot be queued now (no recipe, another one under way) is
tried again at every look, and its reason is shown.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any

from msgspec import Struct
from sqlmodel import Session, col, func, select

from cloud_hub.context import Hub
from cloud_hub.drift.explaining import name_features
from cloud_hub.drift.input_alarms import QUALITY
from cloud_hub.drift.policy import policy_of
from cloud_hub.errors import HubError
from cloud_hub.ingest.commands import send_command
from cloud_hub.jobs.retraining import check_options, check_retrain
from cloud_hub.store.tables import Alarm, AlarmResponse, ChannelRow, Device, DeviceModel, Job, Model, SampleRow
from fleet.api import drift as api
from fleet.api.drift import AlarmInfo
from fleet.api.jobs import RetrainOptions
from fleet.api.models import DriftPolicy
from fleet.api.rollouts import RolloutOptions
from fleet.protocol.channel import decode_channel
from fleet.protocol.durations import DAY_S, HOUR_S

log = logging.getLogger(__name__)
MOST_SAMPLES = 10_000  # that an agent takes a request for; policies of earlier versions may say more
LEAST_LABELS = 4  # that a retrain needs for its gate, at the deadline, too
ENDS = {"succeeded": "retrained", "failed": "failed", "cancelled": "cancelled"}


class Labels(Struct, frozen=True):
    """The number of a release's samples from after a shift on the hub, and of those with a label."""

    samples: int
    labelled: int


def respond(hub: Hub, model: str, alarm: int) -> None:
    """Ask devices that run the alarm's release for samples of what they see now, those that the alarm names first.

    At most `sample_devices` are asked, within a budget of samples, bytes and hours each. They answer it where their
    channel samples nothing, too. Kept is whom was asked for what. First the alarm is told which features moved.
    """
    name_features(hub, alarm)
    with hub.reading() as session:
        policy = _policy(session, model)
        row = session.get_one(Alarm, alarm)
        detail = row.detail
        devices = _running(session, model, row.release, detail.get("devices", ()))
    now = hub.clock()
    asked = _ask(hub, model, _chosen(devices, detail.get("devices", ()), policy.sample_devices, alarm), policy)
    wants_labels = policy.retrain == "on-alarm" and detail.get("kind") != QUALITY  # broken data is mended, not learnt
    document = {
        "asked": asked,
        "of": len(devices),
        "samples": min(policy.samples, MOST_SAMPLES),
        "max_bytes": policy.sample_bytes,
        "until": now + policy.sample_hours * HOUR_S,
        "labels": policy.retrain_labels,
        "missing": "",
    }
    response = AlarmResponse(
        alarm=alarm,
        model=model,
        state="collecting" if wants_labels else "asked",
        since=float(detail.get("since") or now),
        deadline=now + policy.retrain_days * DAY_S if wants_labels else None,
        document=document,
        updated_at=now,
    )
    with hub.session() as session:
        session.merge(response)


def unanswered(session: Session, model: str) -> list[int]:
    """The open alarms of a model that nothing follows yet: new ones, and those after which a hub has ended."""
    answered = select(AlarmResponse.alarm).where(AlarmResponse.model == model)
    rows = select(Alarm.id).where(Alarm.model == model, Alarm.status != "closed", col(Alarm.id).not_in(answered))
    return [number for number in session.exec(rows.order_by(col(Alarm.id))) if number is not None]


def follow(hub: Hub) -> None:
    """Look at every response that has not ended: count its labels, start its retrain, hear of its job's end."""
    with hub.reading() as session:
        rows = select(AlarmResponse.alarm).where(col(AlarmResponse.state).in_(("asked", "collecting", "retraining")))
        alarms = list(session.exec(rows.order_by(col(AlarmResponse.alarm))))
    for alarm in alarms:
        try:
            _follow(hub, alarm)
        except HubError as error:  # one alarm's trouble is not the others'
            log.warning("alarm %d: %s", alarm, error)


def collected(session: Session, model: str, release: int, since: float) -> Labels:
    """Count the samples of a release, and the labelled ones, that were recorded and received after a moment."""
    after = (SampleRow.model == model, SampleRow.release == release, col(SampleRow.deleted_at).is_(None))
    times = (SampleRow.at >= since, SampleRow.received_at >= since)  # by both clocks: one of them may be wrong
    samples, labelled = session.exec(
        select(func.count(), func.count(col(SampleRow.labelled_at))).where(*after, *times)
    ).one()
    return Labels(samples, labelled)


def described(session: Session, alarms: Sequence[Alarm]) -> list[AlarmInfo]:
    """Alarms with what follows them, as the API shows them."""
    rows = session.exec(select(AlarmResponse).where(col(AlarmResponse.alarm).in_([alarm.id for alarm in alarms])))
    found = {row.alarm: row for row in rows}
    return [
        AlarmInfo.model_validate({**vars(alarm), "response": _shown(found[alarm.id]) if alarm.id in found else None})
        for alarm in alarms
    ]


def _shown(row: AlarmResponse) -> api.AlarmResponse:
    document = {**row.document, "state": row.state, "since": row.since, "deadline": row.deadline, "job": row.job}
    known = api.AlarmResponse.model_fields
    return api.AlarmResponse.model_validate({key: value for key, value in document.items() if key in known})


def _follow(hub: Hub, alarm: int) -> None:
    with hub.reading() as session:
        row = session.get_one(AlarmResponse, alarm)
        before = (row.state, row.job, row.document)
        if row.state == "retraining":
            _hear(session, row)
        elif session.get_one(Alarm, alarm).status == "closed":
            row.state, row.document = "closed", {**row.document, "missing": ""}
        else:
            _count(session, row, hub.clock())
    if row.state == "collecting":
        _start(hub, row, before[2])
    if (row.state, row.job, row.document) != before:
        row.updated_at = hub.clock()
        with hub.session() as session:
            session.merge(row)


def _count(session: Session, row: AlarmResponse, now: float) -> None:
    found = collected(session, row.model, session.get_one(Alarm, row.alarm).release, row.since)
    row.document = {**row.document, "collected": found.samples, "labelled": found.labelled, "missing": ""}
    if row.state == "collecting":
        late = row.deadline is not None and now >= row.deadline
        wanted = min(row.document["labels"], LEAST_LABELS) if late else row.document["labels"]
        row.document = {**row.document, "missing": _missing(row.model, found, wanted, late=late)}


def _missing(model: str, found: Labels, wanted: int, *, late: bool) -> str:
    """Return what keeps the retrain from starting, in words; empty when nothing does."""
    if found.labelled >= wanted:
        return ""
    words = f"{found.labelled} of {wanted} labels of samples from after the shift"
    if not found.samples:
        return f"{words}: no such sample is here yet"
    words += f", {found.samples} such samples are here: fleet sample list --model {model} --unlabelled"
    return words if late else f"{words}; at the deadline {LEAST_LABELS} are enough"


def _start(hub: Hub, row: AlarmResponse, before: Mapping[str, Any]) -> None:
    """Queue the retrain for the first channel that has the alarm's release as its default, or else the model, if labels
    are there; say it if it cannot be.

    That a recipe is missing is said at once, and not when the labels are there. The job is the alarm's only one.
    """
    with hub.reading() as session:
        release, every = session.get_one(Alarm, row.alarm).release, session.exec(select(ChannelRow))
        entries = {channel.name: decode_channel(channel.document).models.get(row.model) for channel in every}
        made = session.exec(select(Job.id).where(Job.created_by == f"alarm:{row.alarm}").limit(1)).first()
    # A rollout with the usual stages: an alarm closes the loop up to the guarded rollout.
    channels = [(entry.release != release, name) for name, entry in entries.items() if entry is not None]
    options = RetrainOptions(channel=min(channels)[1], rollout=RolloutOptions()) if channels else RetrainOptions()
    actor, missing = f"alarm:{row.alarm}", row.document["missing"]
    try:
        if missing:
            check_options(hub, row.model, options)
        else:
            row.job = made or check_retrain(hub, row.model, options, actor=actor, alone=True).id
            row.state = "retraining"
    except HubError as error:
        refused = f"no retrain: {error}"
        row.document = {**row.document, "refused": refused, "missing": f"{refused}; {missing}" if missing else refused}
        if before.get("refused") != refused:
            log.warning("alarm %d starts no retrain of %s: %s", row.alarm, row.model, error)
            with hub.session() as session:
                hub.audit(session, actor, "retrain.refused", row.model, {"reason": str(error)})
    else:
        row.document = {**row.document, "refused": ""}


def _hear(session: Session, row: AlarmResponse) -> None:
    job = session.get(Job, row.job)
    if job is None:
        row.state, row.document = "failed", {**row.document, "missing": f"job {row.job} is gone"}
    elif job.state in ENDS:
        row.state, row.document = ENDS[job.state], {**row.document, "missing": job.error}


def _policy(session: Session, model: str) -> DriftPolicy:
    owner = session.get(Model, model)
    return policy_of(owner.policy if owner is not None else {})


def _running(session: Session, model: str, release: int, named: Collection[str]) -> list[str]:
    """The devices that run a release, or that are named and run the model, and were not revoked."""
    rows = (
        select(Device.id, DeviceModel.active)
        .join(DeviceModel, col(DeviceModel.device_id) == col(Device.id))
        .where(DeviceModel.model == model, col(Device.revoked_at).is_(None))
        .order_by(col(Device.id))
    )
    known = set(named)
    return [name for name, active in session.exec(rows) if active == release or name in known]


def _chosen(devices: Sequence[str], named: Sequence[str], most: int, alarm: int) -> list[str]:
    """At most `most` devices: the alarm's own in their order, then others at random (by the alarm's number)."""
    known = set(devices)
    first = [device for device in dict.fromkeys(named) if device in known]
    others = sorted(known.difference(first), key=lambda device: sha256(f"{alarm}:{device}".encode()).digest())
    return [*first, *others][:most]


def _ask(hub: Hub, model: str, devices: Sequence[str], policy: DriftPolicy) -> int:
    """Returns how many were asked."""
    if not policy.samples:
        return 0
    arguments: dict[str, Any] = {
        "model": model,
        "count": min(policy.samples, MOST_SAMPLES),
        "max_bytes": policy.sample_bytes,
        "seconds": policy.sample_hours * HOUR_S,
    }
    asked = 0
    for device in devices:
        try:
            send_command(hub, device, "send-samples", arguments)
            asked += 1
        except HubError as error:  # revoked in this moment; the others are asked all the same
            log.info("device %s is not asked for samples: %s", device, error)
    return asked

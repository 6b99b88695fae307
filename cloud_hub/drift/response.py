"""What follows an alarm: devices are asked for samples, and a retrain job may start."""

from __future__ import annotations

import logging

from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.drift.policy import policy_of
from cloud_hub.store.tables import Device, DeviceModel, Job, Model

log = logging.getLogger(__name__)


def respond(hub: Hub, model: str, alarm: int) -> None:
    """Ask every device that runs `model` for samples; with `retrain = "on-alarm"`, queue one retrain job."""
    from cloud_hub.ingest.commands import send_command

    with hub.reading() as session:
        owner = session.get(Model, model)
        policy = policy_of(owner.policy if owner is not None else {})
        devices = list(
            session.exec(
                select(Device.id)
                .join(DeviceModel, col(DeviceModel.device_id) == col(Device.id))
                .where(DeviceModel.model == model, col(Device.revoked_at).is_(None))
            )
        )
    for device in devices:
        send_command(hub, device, "send-samples", {"model": model, "count": policy.samples})
    if policy.retrain == "on-alarm":
        _queue_retrain(hub, model, alarm)


def _queue_retrain(hub: Hub, model: str, alarm: int) -> None:
    with hub.session() as session:
        waiting = select(Job).where(
            Job.kind == "retrain", Job.model == model, col(Job.state).in_(("queued", "running"))
        )
        if session.exec(waiting).first() is not None:
            log.info("a retrain job of %s is under way already", model)
            return
        now = hub.clock()
        job = Job(
            id=f"j-alarm-{alarm}", kind="retrain", model=model, payload={"alarm": alarm}, state="queued",
            created_at=now, created_by="drift",
        )  # fmt: skip
        session.add(job)
        hub.audit(session, "drift", "job.create", job.id, {"model": model, "alarm": alarm})

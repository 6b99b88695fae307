"""What follows an alarm: devices are asked for samples, and a retrain job may start."""

from __future__ import annotations

import logging

from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.drift.policy import policy_of
from cloud_hub.errors import HubError
from cloud_hub.ingest.commands import send_command
from cloud_hub.jobs.retraining import check_retrain
from cloud_hub.store.tables import ChannelRow, Device, DeviceModel, Model
from fleet.api.jobs import RetrainOptions
from fleet.api.rollouts import RolloutOptions
from fleet.protocol.channel import decode_channel

log = logging.getLogger(__name__)


def respond(hub: Hub, model: str, alarm: int) -> None:
    """Ask every device that runs `model` for samples; with `retrain = "on-alarm"`, queue one retrain job."""
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
        try:
            send_command(hub, device, "send-samples", {"model": model, "count": policy.samples})
        except HubError as error:  # revoked in this moment; the others are asked all the same
            log.info("device %s is not asked for samples: %s", device, error)
    if policy.retrain == "on-alarm":
        _queue_retrain(hub, model, alarm)


def _queue_retrain(hub: Hub, model: str, alarm: int) -> None:
    """Queue a retrain for the first channel that holds the model; why it cannot be is written down, not raised."""
    with hub.reading() as session:
        channels = [
            row.name for row in session.exec(select(ChannelRow)) if model in decode_channel(row.document).models
        ]
    # A rollout with the usual stages: an alarm closes the loop up to the guarded rollout.
    options = RetrainOptions(channel=min(channels), rollout=RolloutOptions()) if channels else RetrainOptions()
    try:
        check_retrain(hub, model, options, actor=f"alarm:{alarm}", alone=True)
    except HubError as error:
        log.warning("alarm %d starts no retrain of %s: %s", alarm, model, error)
        with hub.session() as session:
            hub.audit(session, f"alarm:{alarm}", "retrain.refused", model, {"reason": str(error)})

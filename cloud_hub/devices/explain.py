"""The release that a device should run of each model of its channel, and the reason."""

from __future__ import annotations

from sqlmodel import Session, select

from cloud_hub.context import Hub
from cloud_hub.devices.status import find_device
from cloud_hub.identity.groups import group_id, group_ids
from cloud_hub.rollouts import capabilities
from cloud_hub.store.tables import ChannelRow, Device, DeviceModel
from fleet.api.channels import ChannelExplanation
from fleet.protocol.channel import decode_channel
from fleet.rollouts.explain import HeldTo, Standing, explain


def explain_device(hub: Hub, device_id: str) -> ChannelExplanation:
    """Every model of the device's channel; none where the channel is not there. NotFoundError: no such device."""
    with hub.reading() as session:
        device = find_device(session, device_id)
        row = session.get(ChannelRow, device.channel)
        secret = hub.device_tokens.group_secret
        held = capabilities.held_back(session, device, group_ids(secret, device.labels))
        committed = _committed(session, device)
    if row is None:
        return ChannelExplanation(device=device.id, channel=device.channel, version=None, items=[])
    channel = decode_channel(row.document)
    labels = {group_id(secret, key, value): f"{key}={value}" for key, value in device.labels.items()}
    items = []
    for model in sorted(channel.models):
        found = held.get(model)
        standing = Standing(
            device_id=device.id,
            groups=frozenset(labels),
            pin=device.pins.get(model),
            committed=committed.get(model),
            held=None if found is None else HeldTo(offered=found.offered, lacks=found.lacks, release=found.release),
        )
        items.append(explain(channel, model, standing, labels))
    return ChannelExplanation(device=device.id, channel=device.channel, version=channel.version, items=items)


def _committed(session: Session, device: Device) -> dict[str, int]:
    """By model what the device last said that it has committed; in probation that is the release before."""
    rows = session.exec(select(DeviceModel).where(DeviceModel.device_id == device.id))
    found = {row.model: row.previous if row.state == "probation" else row.active for row in rows}
    return {model: release for model, release in found.items() if release is not None}

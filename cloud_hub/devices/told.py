"""The answer to a device that asks about itself."""

from __future__ import annotations

from cloud_hub.context import Hub
from cloud_hub.errors import UnauthenticatedError
from cloud_hub.identity.groups import group_ids
from cloud_hub.identity.renewal import is_due
from cloud_hub.ingest.clones import still_cloned
from cloud_hub.rollouts import capabilities
from cloud_hub.store.tables import Device
from fleet.protocol.messages import DeviceMe


def told(hub: Hub, device_id: str) -> DeviceMe:
    """Its channel, groups, pins and broker; a release that its agent does not understand is pinned away.

    Raises:
        UnauthenticatedError: it is not enrolled, or was revoked.
    """
    with hub.reading() as session:
        device = session.get(Device, device_id)
        if device is None or device.revoked_at is not None:
            raise UnauthenticatedError("this device is not enrolled", subject="device", hint="edge-agent enroll")
        groups = group_ids(hub.device_tokens.group_secret, device.labels)
        held = capabilities.held_back(session, device, groups)
    return DeviceMe(
        device_id=device.id,
        channel=device.channel,
        groups=groups,
        pins=capabilities.pins(device, held),
        mqtt=hub.mqtt_endpoint(device.mqtt_password),
        renew=is_due(hub, device),
        in_use_twice=still_cloned(device.sessions.get("cloned_at"), hub.clock()),
    )

"""Devices that sent more than the hub takes of one: said in the log, in the audit log, and wherever they are shown."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.events.kinds import Event
from cloud_hub.events.outbox import record
from cloud_hub.store.tables import Device
from fleet.protocol import topics
from fleet.protocol.errors import ProtocolError

log = logging.getLogger(__name__)
TOO_MANY = "too-many-messages"
SHOWN_S = 3600.0  # for which a device is shown as slowed after its last flood


def note(hub: Hub, dropped: Iterable[tuple[str, int]]) -> None:
    """Keep with each device that messages of it were dropped; the audit log has it once an hour at most.

    Args:
        dropped: the begin of a device's topics, and how many messages.
    """
    counts: dict[str, int] = {}
    for begin, count in dropped:
        try:
            counts[topics.parse_uplink(f"{begin}/report", hub.config.broker.prefix).device_id] = count
        except ProtocolError as error:  # a broker of ours lets no such topic through
            log.warning("%d messages on topics that are nobody's were dropped: %s", count, error)
    now = hub.clock()
    with hub.session() as session:
        rows = select(Device).where(col(Device.id).in_(counts)).order_by(col(Device.id)).with_for_update()
        for device in session.exec(rows):
            count = counts[device.id]
            log.warning("%s sends more than is taken of one device: %d messages were dropped", device.id, count)
            if not still_slowed(device.sessions.get("slowed_at"), now):
                hub.audit(session, "ingest", "device.slowed", device.id, {"dropped": count})
                said = f"device {device.id} sends more than is taken of one: {count} messages were dropped"
                event = Event(kind="device.flooding", subject=device.id, message=said, data={"dropped": count})
                record(session, event, now)
            device.sessions = {**device.sessions, "slowed_at": now}
            session.add(device)


def still_slowed(last_at: float | None, now: float) -> bool:
    """Tell whether a device is shown as slowed `now`; `last_at` is when messages of it were dropped last (Unix
    seconds)."""
    return last_at is not None and abs(now - last_at) <= SHOWN_S

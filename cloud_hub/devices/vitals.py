"""A device's vital signs, hour by hour."""

from __future__ import annotations

from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.devices.status import find_device
from cloud_hub.store.tables import Device, VitalsHourRow
from fleet.api.vitals import VitalsHour, VitalsPage
from fleet.protocol.durations import DAY_S, HOUR_S


def list_hours(hub: Hub, device_id: str, *, since: float, after: int, limit: int) -> VitalsPage:
    """Return hours in their order, the one under way the last.

    Args:
        hub: the hub.
        device_id: the device.
        since: they end after this moment, Unix seconds.
        after: they begin after this second; an hour's `begins` goes on behind it.
        limit: at most so many.

    Raises:
        NotFoundError: there is no such device.
    """
    with hub.reading() as session:
        row = find_device(session, device_id)
        found = hours(hub, session, row, max(since - HOUR_S, after), limit + 1)
    return VitalsPage(items=found[:limit], next=found[limit - 1].begins if len(found) > limit else None)


def hours(hub: Hub, session: Session, row: Device, after: float, limit: int) -> list[VitalsHour]:
    """Return at most `limit` hours of a device that begin after a moment, the oldest first.

    None is older than hours are kept: the last one of a silent device stands in its row for good.

    Args:
        hub: the hub.
        session: an open one.
        row: of the device.
        after: Unix seconds.
        limit: the most hours.
    """
    after = max(after, hub.clock() - hub.config.telemetry.hours_days * DAY_S)
    query = select(VitalsHourRow).where(VitalsHourRow.device_id == row.id, col(VitalsHourRow.begins) > after)
    past = session.exec(query.order_by(col(VitalsHourRow.begins)).limit(limit))
    found = {hour.begins: VitalsHour.model_validate(hour) for hour in past}
    current = VitalsHour.model_validate(row.vitals_hour) if row.vitals_hour else None
    if current is not None and current.begins > after:
        same = found.get(current.begins)  # of before a leap of the clock; the fuller one is kept
        if same is None or same.heartbeats <= current.heartbeats:
            found[current.begins] = current
    return [found[begins] for begins in sorted(found)][:limit]

"""What a monitor knows of its fleet: how many devices and groups share the budget, and how often windows come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sqlmodel import Session, col, select

from cloud_hub.drift import intake, records
from cloud_hub.drift.watch import MOST_GROUPS
from cloud_hub.store.tables import Device, DeviceModel, DriftMonitor, WindowRow

FACTS_S = 600.0  # how old what a monitor knows of the fleet may be
GROUP_DEVICES = 3  # at least, in a group
LOOKED_AT = 2000  # newest windows that say how often they come
ANOTHER = 1.25  # times longer or shorter: devices are gathered over another time


def labels(given: Mapping[str, str]) -> list[str]:
    """A device's labels as names of groups: `site=berlin`."""
    return [f"{key}={value}" for key, value in given.items()]


def learn_facts(session: Session, monitor: DriftMonitor, now: float) -> None:
    """How many devices there are, which labels make groups, and how often windows come, looked up now and then: it
    costs by the fleet."""
    facts = monitor.document.get("facts")
    if facts is not None and 0 <= now - facts["at"] < FACTS_S:
        return
    query = select(Device.labels, Device.pins).join(DeviceModel, col(DeviceModel.device_id) == col(Device.id))
    devices = session.exec(query.where(DeviceModel.model == monitor.model, col(Device.revoked_at).is_(None))).all()
    counts = Counter(name for given, _ in devices for name in labels(given))
    groups = [(count, name) for name, count in counts.items() if GROUP_DEVICES <= count < len(devices)]
    chosen = [name for _, name in sorted(groups, reverse=True)[:MOST_GROUPS]]
    pinned = sorted({pins[monitor.model] for _, pins in devices if monitor.model in pins})
    facts = {"at": now, "devices": len(devices), "groups": sorted(chosen), "pinned": pinned}
    monitor.document = {**monitor.document, "facts": facts}
    if monitor.basis:
        _learn_slot(session, monitor)


def _learn_slot(session: Session, monitor: DriftMonitor) -> None:
    """Devices may send windows more seldom or more often than in the beginning: groups gather them accordingly."""
    query = select(WindowRow.device_id, WindowRow.started_at, WindowRow.ended_at)
    newest = query.where(WindowRow.model == monitor.model).order_by(col(WindowRow.id).desc()).limit(LOOKED_AT)
    slot_s, before = intake.slot_of(list(session.exec(newest))[::-1]), monitor.document["slot_s"]
    if slot_s is None or before / ANOTHER < slot_s < before * ANOTHER:
        return
    monitor.document = {**monitor.document, "slot_s": slot_s}
    records.open_slots_anew(session, monitor.model)

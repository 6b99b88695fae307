"""Groups of devices by their labels, as far as they may be watched: large enough, and not everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from sqlmodel import Session, col, select

from cloud_hub.store.tables import Device, DeviceModel

LEAST_DEVICES = 3  # of a group
MOST = 16  # groups of a model: the largest


def names_of(labels: Mapping[str, str]) -> list[str]:
    """A device's labels as names of groups: `site=berlin`."""
    return [f"{key}={value}" for key, value in sorted(labels.items())]


def of_model(session: Session, model: str) -> tuple[str, ...]:
    """The groups of the devices that run a model; reads the labels of them all."""
    query = select(Device.labels).join(DeviceModel, col(DeviceModel.device_id) == col(Device.id))
    labels = list(session.exec(query.where(DeviceModel.model == model, col(Device.revoked_at).is_(None))))
    counts = Counter(name for each in labels for name in names_of(each))
    fit = [(-count, name) for name, count in counts.items() if LEAST_DEVICES <= count < len(labels)]
    return tuple(sorted(name for _, name in sorted(fit)[:MOST]))


def of_devices(session: Session, devices: Iterable[str], known: Iterable[str]) -> dict[str, list[str]]:
    """The groups, of the known ones, that each of some devices belongs to."""
    rows = session.exec(select(Device.id, Device.labels).where(col(Device.id).in_(sorted(set(devices)))))
    wanted = set(known)
    return {device: [name for name in names_of(labels) if name in wanted] for device, labels in rows}

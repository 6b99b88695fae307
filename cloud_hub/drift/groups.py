"""Groups of devices by their labels, as far as they may be watched: large enough, and not everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from sqlmodel import Session, col, select

from cloud_hub.store.tables import Device

LEAST_DEVICES = 3  # of a group
MOST = 64  # groups of a release: the largest


def names_of(labels: Mapping[str, str]) -> list[str]:
    """A device's labels as names of groups: `site=berlin`."""
    return [f"{key}={value}" for key, value in sorted(labels.items())]


def among(labels: Collection[Mapping[str, str]]) -> tuple[str, ...]:
    """The groups of some devices, by the labels of each; the largest first."""
    counts = Counter(name for each in labels for name in names_of(each))
    fit = [(-count, name) for name, count in counts.items() if LEAST_DEVICES <= count < len(labels)]
    return tuple(name for _, name in sorted(fit)[:MOST])


def of_devices(session: Session, devices: Iterable[str], known: Iterable[str]) -> dict[str, list[str]]:
    """Return the groups, of the known ones, that each of some devices belongs to."""
    rows = session.exec(select(Device.id, Device.labels).where(col(Device.id).in_(sorted(set(devices)))))
    wanted = set(known)
    return {device: [name for name in names_of(labels) if name in wanted] for device, labels in rows}

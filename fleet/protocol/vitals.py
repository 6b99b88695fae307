"""The load of the machine below an agent: a few numbers that a heartbeat carries. Pure."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

MOST_BYTES = 1 << 60  # of a memory or a disk
COLDEST, HOTTEST = -100.0, 250.0  # degrees Celsius that a sensor of a working machine can mean
_BOUNDS: dict[str, tuple[float, float]] = {
    "cpu": (0.0, 1.0),
    "celsius": (COLDEST, HOTTEST),
    "memory": (0, MOST_BYTES),
    "memory_free": (0, MOST_BYTES),
    "disk": (0, MOST_BYTES),
    "disk_free": (0, MOST_BYTES),
}


class Vitals(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A machine's numbers; one that it cannot tell is missing.

    `cpu` is the busy share of all its cores, in [0, 1], since the reading before. `memory` and `disk` are bytes in
    all, `memory_free` and `disk_free` what programs can have of them; the disk is that of the agent's directory.
    `celsius` is its hottest sensor. Inside a container the machine's numbers are the host's.
    """

    cpu: float | None = None
    memory: int | None = None
    memory_free: int | None = None
    disk: int | None = None
    disk_free: int | None = None
    celsius: float | None = None


def mended_vitals(vitals: Vitals) -> tuple[Vitals, tuple[str, ...]]:
    """Without the numbers that no machine can have, and which these were.

    A broken sensor is no reason to set a heartbeat aside: the device is there, and would be taken for one that is not.
    """
    bad = {name for name, (least, most) in _BOUNDS.items() if not _within(getattr(vitals, name), least, most)}
    for name in ("memory", "disk"):
        whole, free = getattr(vitals, name), getattr(vitals, f"{name}_free")
        if name not in bad and not _within(free, 0, MOST_BYTES if whole is None else whole):
            bad.add(f"{name}_free")
    names = tuple(sorted(bad))
    return (replace(vitals, **dict.fromkeys(names)) if names else vitals), names


def _within(value: float | None, least: float, most: float) -> bool:
    return value is None or least <= value <= most  # false for NaN, too

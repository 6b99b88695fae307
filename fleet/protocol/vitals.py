"""How the machine below an agent does: a few numbers that a heartbeat carries. Pure."""

from __future__ import annotations

from msgspec import Struct

from fleet.protocol.bounds import check_count
from fleet.protocol.errors import MalformedError

MOST_BYTES = 1 << 60  # of a memory or a disk
COLDEST, HOTTEST = -100.0, 250.0  # degrees Celsius that a sensor of a working machine can mean


class Vitals(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a machine tells of itself; what it does not tell is missing.

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


def check_vitals(vitals: Vitals) -> Vitals:
    """Return them when every number is one that a machine can have; MalformedError otherwise."""
    _check_within(vitals.cpu, "vitals.cpu", 0.0, 1.0)
    _check_within(vitals.celsius, "vitals.celsius", COLDEST, HOTTEST)
    for name in ("memory", "disk"):
        whole, free = getattr(vitals, name), getattr(vitals, f"{name}_free")
        most = MOST_BYTES if whole is None else check_count(whole, f"vitals.{name}", MOST_BYTES)
        if free is not None:
            check_count(free, f"vitals.{name}_free", most)
    return vitals


def _check_within(value: float | None, subject: str, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:  # false for NaN, too
        raise MalformedError(f"{subject}: {value} is not from {least:g} to {most:g}", subject=subject)

"""The load of the machine below an agent, by its last heartbeat: as an answer, in words, and its faults. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fleet.api.base import Page, ResponseModel

SCARCE = 0.05  # of the memory or the disk: with less, the next download or load fails
HOT_CELSIUS = 85.0  # from 80 to 85 on most boards run slower to stay whole
STALE_S = 3600.0  # what was told before says nothing of now


class MachineFigures(ResponseModel):
    """The figures of a machine; one that nobody reported is null. `cpu` is the busy share of all its cores in [0, 1];
    memory and disk are bytes, in all and free; `celsius` is its hottest sensor."""

    cpu: float | None = None
    memory: int | None = None
    memory_free: int | None = None
    disk: int | None = None
    disk_free: int | None = None
    celsius: float | None = None


class DeviceVitals(MachineFigures):
    """A machine's report of its last heartbeat, which the hub received `at` (Unix seconds); `cpu` is of the time since
    the heartbeat before."""

    at: float


class VitalsHour(MachineFigures):
    """The vital signs of a machine in one hour, by its heartbeats; the hour `begins` at that Unix second, by the hub's
    clock.

    `cpu` is the mean, `cpu_most` the highest; `memory_free` and `disk_free` are the fewest bytes that programs could
    have; `celsius` is the hottest. A value that no heartbeat told is null.
    """

    begins: int
    heartbeats: int
    cpu_most: float | None = None


class VitalsPage(Page[VitalsHour]):
    """Hours in their order; one in which no heartbeat came is not there."""


class Ill(NamedTuple):
    """A fault, its consequence, and the remedy."""

    what: str
    why: str
    todo: str


def hour_in_words(hour: VitalsHour) -> dict[str, str]:
    """`{"cpu": "12 % busy, 60 % at most", "memory": "0.4 GiB of 1 GiB free", …}`: the worst of what is told."""
    told = vitals_in_words(
        DeviceVitals(at=hour.begins, **hour.model_dump(exclude={"begins", "heartbeats", "cpu_most"}))
    )
    if hour.cpu_most is not None and "cpu" in told:
        told["cpu"] += f", {100 * hour.cpu_most:.0f} % at most"
    return told


def vitals_in_words(vitals: DeviceVitals | None) -> dict[str, str]:
    """`{"cpu": "12 % busy", "memory": "0.4 GiB of 1 GiB free", "disk": …, "temperature": "51 °C"}`: what is told."""
    if vitals is None:
        return {}
    told = {
        "cpu": None if vitals.cpu is None else f"{100 * vitals.cpu:.0f} % busy",
        "memory": _room(vitals.memory_free, vitals.memory),
        "disk": _room(vitals.disk_free, vitals.disk),
        "temperature": None if vitals.celsius is None else f"{vitals.celsius:.0f} °C",
    }
    return {name: words for name, words in told.items() if words is not None}


def ill_of(vitals: DeviceVitals | None, now: float) -> Iterator[Ill]:
    """Yield the faults of a machine at the moment `now` (Unix seconds); a report older than STALE_S tells nothing."""
    if vitals is None or abs(now - vitals.at) > STALE_S:
        return
    if _is_scarce(vitals.memory_free, vitals.memory):
        what = f"its memory is nearly full: {_room(vitals.memory_free, vitals.memory)}"
        yield Ill(what, "the system ends programs that want more, the agent among them", "see what else runs on it")
    if _is_scarce(vitals.disk_free, vitals.disk):
        what = f"its disk is nearly full: {_room(vitals.disk_free, vitals.disk)}"
        yield Ill(what, "releases may not fit, and reports may not be kept", "free space on the device")
    if vitals.celsius is not None and vitals.celsius >= HOT_CELSIUS:
        what = f"it is hot: {vitals.celsius:.0f} °C"
        yield Ill(what, "most boards run slower to stay whole, and answers take longer", "see to its cooling")


def _is_scarce(free: int | None, whole: int | None) -> bool:
    return free is not None and whole is not None and whole > 0 and free < SCARCE * whole


def _room(free: int | None, whole: int | None) -> str | None:
    if free is None:
        return None
    if whole is None:
        return f"{_size(free)} free"
    return f"{_size(free)} of {_size(whole)} free"


def _size(number: int) -> str:
    for power, name in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 1 << power:
            return f"{number / (1 << power):.3g} {name}"
    return f"{number} B"

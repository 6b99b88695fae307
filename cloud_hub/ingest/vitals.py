"""The hour of a device's heartbeats that is under way, and the hours that are over. Pure.

An hour is summed up in the device's own row, which each heartbeat writes anyway; when it is over it becomes a row of
its own (`store.reported.VitalsHourRow`), so a heartbeat costs no statement more. Hours are the hub's: a device with a
wrong clock has the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from fleet.protocol.durations import HOUR_S
from fleet.protocol.vitals import Vitals

Number = TypeVar("Number", int, float)


class VitalsSum(Vitals, frozen=True, kw_only=True, omit_defaults=True):
    """The vital signs in the heartbeats of one hour, which `begins` at that Unix second; one that none of them told is
    missing.

    `cpu` is the mean, over the `readings` of heartbeats that told it, and `cpu_most` the highest. `memory` and `disk`
    are as told last, `memory_free` and `disk_free` the fewest, and `celsius` is the hottest.
    """

    begins: int
    heartbeats: int = 0
    readings: int = 0
    cpu_most: float | None = None


def add(document: Mapping[str, Any], vitals: Vitals, now: float) -> tuple[VitalsSum, VitalsSum | None]:
    """Add a heartbeat to its hour.

    One that comes in the hour before the one under way counts in the one under way: a clock that was set back at the
    full hour, or two hubs whose clocks differ, would begin it anew again and again.

    Args:
        document: the hour under way as the device's row has it, empty before the first heartbeat.
        vitals: what the heartbeat tells.
        now: when the hub received it, Unix seconds.

    Returns:
        the hour under way, and the one before it if that is over now.
    """
    begins = int(now // HOUR_S) * HOUR_S
    before = msgspec.convert(document, VitalsSum) if document else None
    if before is not None and 0 <= before.begins - begins <= HOUR_S:
        return _added(before, vitals), None
    return _added(VitalsSum(begins=begins), vitals), before


def _added(hour: VitalsSum, vitals: Vitals) -> VitalsSum:
    readings, cpu = hour.readings, hour.cpu
    if vitals.cpu is not None:
        readings += 1
        cpu = vitals.cpu if cpu is None else cpu + (vitals.cpu - cpu) / readings
    return VitalsSum(
        begins=hour.begins,
        heartbeats=hour.heartbeats + 1,
        readings=readings,
        cpu=cpu,
        cpu_most=_either(max, hour.cpu_most, vitals.cpu),
        memory=hour.memory if vitals.memory is None else vitals.memory,
        memory_free=_either(min, hour.memory_free, vitals.memory_free),
        disk=hour.disk if vitals.disk is None else vitals.disk,
        disk_free=_either(min, hour.disk_free, vitals.disk_free),
        celsius=_either(max, hour.celsius, vitals.celsius),
    )


def _either(choose: Callable[[Number, Number], Number], one: Number | None, other: Number | None) -> Number | None:
    """Return the one that `choose` takes, or the one that is there."""
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)

"""Tells whether a monitor hears anything. Pure.

A monitor without windows keeps its last state, and no evidence is no health: once no window that counts has come for
long enough, it is silent, since when it last heard. That is by the hub's clock and by what came, so no device's clock
matters. Unless the policy sets the time, it is a baseline's period, at most a day, since a pause that is usual within
it is a night and no silence; and never less than some times the pause between two windows of a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloud_hub.clock import lies_ahead
from cloud_hub.drift.policy import DriftPolicy
from fleet.protocol.durations import DAY_S

HEARD = "heard"  # of a monitor's document: when windows that count came last, Unix seconds
SILENT = "silent"
SLOTS = 10.0  # times the usual time between a device's windows


def after_s(policy: DriftPolicy, slot_s: float) -> float:
    """After how many seconds without a window a monitor is silent.

    Args:
        slot_s: how long after a window a device's next one usually comes.
    """
    return policy.silent_after_s or max(min(policy.baseline_s, DAY_S), SLOTS * slot_s)


def since(document: Mapping[str, Any], policy: DriftPolicy, now: float) -> float | None:
    """Return when a monitor heard something last (Unix seconds), if that is too long ago; else None.

    Args:
        document: the monitor's own. One of an earlier version does not say it before the engine's next look.
    """
    heard = document.get(HEARD)
    if heard is None or lies_ahead(heard, now):  # a clock that ran ahead wrote it; the engine sets it back
        return None
    return heard if now - heard > after_s(policy, document.get("slot_s", 0.0)) else None


def state_of(state: str, silent_since: float | None) -> str:
    """A monitor's state as it is shown. An open alarm stays one: that nobody is heard any more takes nothing back."""
    return SILENT if silent_since is not None and state != "alarmed" else state

"""A device's habit of silence: the longest time between two of its messages in the last one to two weeks.

Devices that are off at night, or half an hour a day, are so under every release: only a longer silence says something.
"""

from __future__ import annotations

from cloud_hub.store.hearing import Hearing
from cloud_hub.store.senders import Sender
from cloud_hub.store.tables import Device

PERIOD_S = 7 * 86_400.0
LONGEST_S = 86_400.0  # a device that was in a drawer for months does not have the habit of being quiet for months


def heard(device: Device | Sender, now: float, hub: Hearing) -> None:
    """Note that the device was heard `now` (the hub's time, Unix seconds), before `last_seen_at` is moved on.

    What the hub could not hear is no habit of the device.

    Args:
        device: its row, or the part of it that ingest has.
        now: Unix seconds by the hub's clock.
        hub: the times at which the hub itself could hear.
    """
    age = now - device.quiet_since
    if not 0 <= age < PERIOD_S:  # also after a clock that ran ahead
        device.quiet_before_s = device.quiet_s if 0 <= age < 2 * PERIOD_S else 0.0
        device.quiet_s, device.quiet_since = 0.0, now
    if device.last_seen_at is not None:
        silence = now - device.last_seen_at - hub.deaf_s(device.last_seen_at, now)
        device.quiet_s = max(device.quiet_s, silence)


def longest(quiet_s: float, quiet_before_s: float) -> float:
    """Seconds that a device is known to be quiet now and then, a day at most; 0 for one that has not been watched.

    Args:
        quiet_s, quiet_before_s: of `tables.Device`.
    """
    return min(max(quiet_s, quiet_before_s), LONGEST_S)

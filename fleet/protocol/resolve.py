"""From the channel document to the release one device should run; hub and device agree by this code."""

from __future__ import annotations

import hashlib

from msgspec import Struct

from fleet.protocol.channel import MILLION, Channel, ModelEntry, RolloutRef


class Assignment(Struct, frozen=True, kw_only=True):
    """The release that a device should run. `rollout` is set when the device is in that rollout's cohort."""

    release: int
    rollout: RolloutRef | None = None
    why: str = "default"


def cohort_place(salt: str, device_id: str) -> int:
    """Return the place of the device's hash, in parts per million: sha256(salt ":" id) · 10⁶ / 2²⁵⁶, rounded down."""
    digest = hashlib.sha256(f"{salt}:{device_id}".encode()).digest()
    return int.from_bytes(digest, "big") * MILLION >> 256


def in_cohort(salt: str, device_id: str, share_ppm: int) -> bool:
    """Tell whether the device's hash falls below the share, in integers: sha256(salt ":" id) · 10⁶ < share · 2²⁵⁶.

    Args:
        salt: the rollout's.
        device_id: the device's.
        share_ppm: parts per million; a million holds every device.
    """
    return share_ppm >= MILLION or cohort_place(salt, device_id) < share_ppm


def spread_delay(version: int, device_id: str, spread_s: int) -> int:
    """Return the seconds that a device waits after a notify before it looks: sha256(version ":" id) mod spread.

    Args:
        version: the channel's, as the notify has it.
        device_id: the device's.
        spread_s: the notify's; 0 or less for at once.
    """
    if spread_s <= 0:
        return 0
    digest = hashlib.sha256(f"{version}:{device_id}".encode()).digest()
    return int.from_bytes(digest, "big") % spread_s


def resolve(
    channel: Channel,
    model: str,
    device_id: str,
    *,
    groups: frozenset[str] = frozenset(),
    pin: int | None = None,
    committed: int | None = None,
) -> Assignment | None:
    """Return the release that a device should run of a model, or None when the channel lacks the model.

    Order: a pin, then the first rule that names one of the device's groups, then the rollout's cohort, then the
    default. A device enters a rollout only from the release it starts from: while `committed` differs from both `from`
    and the rollout's own release, the answer is the default, which is installed first.

    Args:
        channel: the signed document.
        model: the model's name.
        device_id: the device's.
        groups: opaque ids that the hub told the device.
        pin: an operator's; None for none.
        committed: the release that the device has committed. The hub, which asks for a plan and not for a moment,
            passes `entry.rollout.from_release`.
    """
    entry = channel.models.get(model)
    if entry is None:
        return None
    if pin is not None:
        return Assignment(release=pin, why="pin")
    for rule in entry.rules:
        if groups.intersection(rule.groups):
            return Assignment(release=rule.release, why="rule")
    if _enters(entry, device_id, groups, committed):
        rollout = entry.rollout
        assert rollout is not None
        return Assignment(release=rollout.release, rollout=rollout, why="rollout")
    return Assignment(release=entry.release)


def shadows(
    channel: Channel,
    model: str,
    device_id: str,
    *,
    groups: frozenset[str] = frozenset(),
    pin: int | None = None,
    committed: int | None = None,
) -> RolloutRef | None:
    """Return the rollout whose release the device runs beside the one that it serves, None when there is none.

    It is a device that the rollout could take in, at whatever share, and that has committed the release it starts from.
    Args as `resolve`.
    """
    entry = channel.models.get(model)
    rollout = entry.rollout if entry is not None else None
    if rollout is None or rollout.shadow is None or committed != rollout.from_release:
        return None
    found = resolve(channel, model, device_id, groups=groups, pin=pin, committed=committed)
    free = found is not None and found.why == "default"
    return rollout if free and (not rollout.groups or groups.intersection(rollout.groups)) else None


def _enters(entry: ModelEntry, device_id: str, groups: frozenset[str], committed: int | None) -> bool:
    rollout = entry.rollout
    if rollout is None or (rollout.groups and not groups.intersection(rollout.groups)):
        return False
    if committed not in (rollout.from_release, rollout.release):
        return False
    return in_cohort(rollout.salt, device_id, rollout.share_ppm)

"""The reason for a device's release of a model, in words; the release is `resolve`'s, which devices ask themselves."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from fleet.protocol.channel import Channel, RolloutRef
from fleet.protocol.resolve import in_cohort, resolve


class HeldTo(Struct, frozen=True, kw_only=True):
    """A release that the device's agent does not understand is on offer: what it lacks, and what it is held to."""

    offered: int
    lacks: tuple[str, ...]
    release: int | None


class Standing(Struct, frozen=True, kw_only=True):
    """The facts about a device for one model: its opaque groups, an operator's pin, its committed release."""

    device_id: str
    groups: frozenset[str] = frozenset()
    pin: int | None = None
    committed: int | None = None
    held: HeldTo | None = None


class Explained(Struct, frozen=True, kw_only=True):
    """The release that the device should run of a model (None: none that it understands), why in a word
    (`pin`, `held-back`, `rule`, `rollout`, `default`) and in a sentence, and what it has committed."""

    model: str
    release: int | None
    why: str
    detail: str
    committed: int | None = None


def explain(channel: Channel, model: str, device: Standing, labels: Mapping[str, str]) -> Explained:
    """Explain the release that a device should run; `model` is on the channel.

    Args:
        labels: the label `key=value` of each group, where it is known.
    """
    if device.held is not None:
        lacks = ", ".join(device.held.lacks)
        kept = "has none to keep" if device.held.release is None else f"keeps release {device.held.release}"
        detail = f"the channel offers release {device.held.offered}, and its agent lacks {lacks}: it {kept}"
        return Explained(
            model=model, release=device.held.release, why="held-back", detail=detail, committed=device.committed
        )
    target = resolve(channel, model, device.device_id, groups=device.groups, pin=device.pin, committed=device.committed)
    assert target is not None
    entry = channel.models[model]
    detail = "an operator pinned it"
    if target.why == "rule":
        rule = next(rule for rule in entry.rules if device.groups.intersection(rule.groups))
        named = sorted(labels.get(group, group) for group in device.groups.intersection(rule.groups))
        detail = f"a rule of the channel for {', '.join(named)}"
    elif target.rollout is not None:
        share = target.rollout.share_ppm / 10_000
        detail = f"rollout {target.rollout.id}, attempt {target.rollout.attempt}: it is among the first {share:g} %"
    elif target.why == "default":
        detail = "the channel's default"
        if entry.rollout is not None:
            detail += f"; {_outside(entry.rollout, device)}"
    return Explained(model=model, release=target.release, why=target.why, detail=detail, committed=device.committed)


def _outside(rollout: RolloutRef, device: Standing) -> str:
    """Return why the device is not in the cohort."""
    if rollout.shadow is not None:
        return f"rollout {rollout.id} is at its shadow stage, which serves nobody release {rollout.release}"
    if rollout.groups and not device.groups.intersection(rollout.groups):
        return f"rollout {rollout.id} is for other groups"
    if not in_cohort(rollout.salt, device.device_id, rollout.share_ppm):
        return f"it is not among the first {rollout.share_ppm / 10_000:g} % of rollout {rollout.id}"
    have = "no release" if device.committed is None else f"release {device.committed}"
    return f"rollout {rollout.id} takes it in once it has committed release {rollout.from_release}; it has {have}"

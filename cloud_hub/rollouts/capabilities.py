"""The devices that understand a release, and the releases that all others are held back to.

A release names in `requires` what an agent must understand. A device whose agent lacks some of it is never offered
the release: `/device/me` pins it to what it has, so it goes on serving, reporting and following halts. Older agents
would read such a release as malformed, or not know a word of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from msgspec import Struct
from sqlalchemy import bindparam
from sqlmodel import Session, col, select

from cloud_hub.store.tables import ChannelRow, Device, DeviceModel, Release
from cloud_hub.trust.rows import status_in_words
from fleet.protocol.channel import Channel, decode_channel
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.resolve import resolve

_MANIFEST = select(Release.manifest).where(Release.model == bindparam("model"), Release.number == bindparam("release"))
_DOCUMENT = select(ChannelRow.document).where(ChannelRow.name == bindparam("channel"))


class HeldBack(Struct, frozen=True, kw_only=True):
    """A model for which the channel offers a release that a device does not understand.

    `release` is what the device keeps; None when there is no release that it understands.
    """

    offered: int
    lacks: tuple[str, ...]
    release: int | None


def lacking(device: Device, requires: Iterable[str]) -> tuple[str, ...]:
    """Return the capabilities in `requires` that the device's agent has not reported, sorted."""
    return tuple(sorted(set(requires) - set(device.info.get("capabilities", ()))))


def required(session: Session, model: str, release: int) -> tuple[str, ...]:
    """Return the capabilities that a release requires; none when there is no such release."""
    manifest = session.exec(_MANIFEST, params={"model": model, "release": release}).first()
    return _requires(manifest) if manifest is not None else ()


def held_back(session: Session, device: Device, groups: Iterable[str]) -> dict[str, HeldBack]:
    """The models of the device's channel whose offered release it lacks something for.

    Args:
        session: an open session.
        device: the device, with what its agent reported.
        groups: its opaque group ids.
    """
    document = session.exec(_DOCUMENT, params={"channel": device.channel}).first()
    if document is None:
        return {}
    channel = _channel(document)
    found: dict[str, HeldBack] = {}
    for model in channel.models:
        offered = _offered(channel, model, device, frozenset(groups))
        lacks = lacking(device, required(session, model, offered))
        if lacks:
            kept = _kept(session, device, model, offered, channel.models[model].release)
            found[model] = HeldBack(offered=offered, lacks=lacks, release=kept)
    return found


def pins(device: Device, held: Mapping[str, HeldBack]) -> dict[str, int]:
    """Return the pins of `/device/me`: one that holds the device back outranks an operator's that it cannot follow."""
    return {**device.pins, **{model: one.release for model, one in held.items() if one.release is not None}}


# A fleet that looks at once asks for the same few documents, which change only with their bytes.
@lru_cache(maxsize=64)
def _requires(manifest: bytes) -> tuple[str, ...]:
    return decode_manifest(manifest).requires


@lru_cache(maxsize=64)
def _channel(document: bytes) -> Channel:
    return decode_channel(document)


def _offered(channel: Channel, model: str, device: Device, groups: frozenset[str]) -> int:
    rollout = channel.models[model].rollout
    start = rollout.from_release if rollout is not None else None
    target = resolve(channel, model, device.id, groups=groups, pin=device.pins.get(model), committed=start)
    assert target is not None  # the model is on the channel
    return target.release


def _kept(session: Session, device: Device, model: str, offered: int, default: int) -> int | None:
    """The first that the device understands of: the channel's default, what it has committed, the ones before."""
    report = session.get(DeviceModel, (device.id, model))
    earlier = select(Release.number).where(Release.model == model, Release.number < offered)
    newest_first = session.exec(earlier.order_by(col(Release.number).desc())).all()
    active = [report.active] if report is not None and report.active is not None else []
    for number in (default, *active, *newest_first):
        published = number != offered and status_in_words(session, model, number) == "published"
        if published and not lacking(device, required(session, model, number)):
            return number
    return None

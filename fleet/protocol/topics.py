"""Every MQTT topic, built and parsed here and nowhere else.

    <prefix>/channels/<channel>/notify   hub -> devices
    <prefix>/down/<id>/cmd               hub -> one device
    <prefix>/up/<h>/<id>/status          device -> hub, last will
    <prefix>/up/<h>/<id>/report          device -> hub
    <prefix>/up/<h>/<id>/telemetry       device -> hub
    <prefix>/events/<kind>               hub -> a broker of the operator's own, where hub.toml names one

`<h>` is the first hex digit of sha256(device id), so hub replicas can share the ingest by digit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Literal, get_args

from msgspec import Struct

from fleet.protocol.errors import MalformedError
from fleet.protocol.names import check_name

PREFIX = "edgeloop/v1"
DIGITS = "0123456789abcdef"  # of the shards
Leaf = Literal["status", "report", "telemetry"]


class Uplink(Struct, frozen=True):
    """The publisher of a message, and its kind."""

    device_id: str
    leaf: Leaf


def shard(device_id: str) -> str:
    """First hex digit of sha256(device id)."""
    return hashlib.sha256(device_id.encode()).hexdigest()[0]


def notify(channel: str, prefix: str = PREFIX) -> str:
    """Return the topic on which the hub announces a new version of a channel."""
    return f"{prefix}/channels/{check_name(channel, 'channel')}/notify"


def command(device_id: str, prefix: str = PREFIX) -> str:
    """Return the topic on which the hub speaks to one device."""
    return f"{prefix}/down/{check_name(device_id, 'device')}/cmd"


def uplink(device_id: str, leaf: Leaf, prefix: str = PREFIX) -> str:
    """Return the topic on which a device publishes.

    Args:
        device_id: the device's name.
        leaf: the kind of message.
        prefix: of all topics of the hub.

    Raises:
        MalformedError: no name that a device can have.
    """
    return f"{prefix}/up/{shard(device_id)}/{check_name(device_id, 'device')}/{leaf}"


def events(prefix: str = PREFIX) -> str:
    """Return the topic of the hub's events, at a broker of the operator's own: one level follows, the event's kind."""
    return f"{prefix}/events"


def is_of_devices(topic: str, prefix: str = PREFIX) -> bool:
    """Tell whether hub and devices speak to each other under a topic."""
    return any(f"{topic}/".startswith(f"{prefix}/{side}/") for side in ("channels", "down", "up"))


def uplink_filter(digit: str = "+", prefix: str = PREFIX) -> str:
    """The hub's subscription: all devices, or those of one shard digit."""
    return f"{prefix}/up/{digit}/+/+"


def uplink_filters(digits: Collection[str], prefix: str = PREFIX) -> frozenset[str]:
    """The hub's subscriptions for all devices of these shards; one for all of them together."""
    each = digits if set(digits) != set(DIGITS) else "+"
    return frozenset(uplink_filter(digit, prefix) for digit in each)


def parse_uplink(topic: str, prefix: str = PREFIX) -> Uplink:
    """The device and leaf of an uplink topic.

    Raises:
        MalformedError: another topic, an invalid device name, or a digit that is not the device's.
    """
    parts = topic.removeprefix(prefix + "/").split("/")
    if not topic.startswith(prefix + "/") or len(parts) != 4 or parts[0] != "up" or parts[3] not in get_args(Leaf):
        raise MalformedError(f"not an uplink topic: {topic!r}", subject="topic")
    _, digit, device_id, leaf = parts
    check_name(device_id, "device")
    if digit != shard(device_id):
        raise MalformedError(f"device {device_id!r} does not belong to shard {digit!r}", subject="topic")
    return Uplink(device_id, leaf)  # type: ignore[arg-type]  # checked against Leaf above

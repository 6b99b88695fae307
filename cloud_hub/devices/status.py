"""Devices as the API shows them: their state, their models, and what is held back from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Text, and_, case, func, or_, type_coerce
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import NotFoundError
from cloud_hub.identity.groups import group_ids
from cloud_hub.ingest import aside
from cloud_hub.ingest.clones import still_cloned
from cloud_hub.ingest.slowing import TOO_MANY, still_slowed
from cloud_hub.rollouts import capabilities
from cloud_hub.store.tables import Device, DeviceEvent, DeviceModel
from fleet.api.devices import (
    DeviceDetail,
    DeviceEventInfo,
    DeviceInfo,
    DeviceModelInfo,
    DevicePage,
    DeviceState,
    HeldBackRelease,
    SetAsideInfo,
)
from fleet.api.vitals import DeviceVitals
from fleet.protocol.messages import IN_USE_TWICE

EVENTS = 50  # of one device
CLONED = (
    "two machines connect as this device, as after a card was copied: keep the identity on one of them, and enrol the"
    " other anew, in an empty directory, with a token of its own (fleet token create)"
)
SLOWED = (
    "it sends more than the hub takes of one device, and the rest is dropped: look at what runs on it, and revoke it"
    " (fleet device revoke) if that is not yours"
)
HIDDEN = {"public_key", "certificate", "mqtt_password", "sessions"}
HIDDEN |= {"quiet_s", "quiet_before_s", "quiet_since", "vitals_hour"}


class Problem(NamedTuple):
    """A reason word, or an empty one, and what to do about it."""

    problem: str
    hint: str


def find_device(session: Session, device_id: str, *, lock: bool = False) -> Device:
    """Return the device, its row locked until the transaction ends, if asked.

    Args:
        session: an open one.
        device_id: the device.
        lock: hold its row until the transaction ends.

    Raises:
        NotFoundError: there is none, or it was deleted.
    """
    row = session.get(Device, device_id, with_for_update=lock)
    if row is None or is_gone(row):
        raise NotFoundError(f"no device {device_id!r}", subject=device_id, hint="list them: fleet device list")
    return row


def is_gone(row: Device) -> bool:
    """Tell whether a device was deleted: only the facts that keep it out are left, and it holds no certificate."""
    return row.revoked_at is not None and not row.certificate


def is_shown() -> ColumnElement[bool]:
    """Select the devices that were not deleted, as `is_gone` has it."""
    return or_(col(Device.revoked_at).is_(None), col(Device.certificate) != "")


def list_devices(hub: Hub, *, labels: Mapping[str, str], channel: str, after: str, limit: int) -> DevicePage:
    """At most `limit` devices by id, from those after the id `after` on, that carry all `labels`.

    Args:
        hub: the hub.
        labels: key to value.
        channel: the one that they follow; empty for any.
        after: an id; empty for the first.
        limit: how many.
    """
    statement = select(Device).where(col(Device.id) > after, is_shown()).order_by(col(Device.id)).limit(limit + 1)
    if channel:
        statement = statement.where(Device.channel == channel)
    with hub.reading() as session:
        rows = session.exec(statement.where(*carries(session, labels))).all()
        shown = describe_devices(hub, session, rows[:limit])
    return DevicePage(items=shown, next=shown[-1].id if len(rows) > limit else None)


def carries(session: Session, labels: Mapping[str, str]) -> list[ColumnElement[bool]]:
    """Select the devices that have all the labels: each stands in the document's text as it would be written there.

    That is after a brace or a comma: a quote within a key or a value has a backslash before it, and looks different.
    """
    text = type_coerce(Device.labels, Text)
    place = func.strpos if session.get_bind().dialect.name == "postgresql" else func.instr
    written = [msgspec.json.encode({key: value}).decode()[1:-1] for key, value in labels.items()]
    return [or_(place(text, "{" + pair) > 0, place(text, "," + pair) > 0) for pair in written]


def count_states(session: Session, now: float, offline_after_s: float) -> dict[DeviceState, int]:
    """Count the devices in each state (see `state_of`), in one pass.

    Args:
        session: an open one.
        now: Unix seconds.
        offline_after_s: seconds of silence after which a device is offline.
    """
    heard = and_(col(Device.revoked_at).is_(None), col(Device.online), col(Device.last_seen_at) > now - offline_after_s)
    counted: Any = select(func.count(), func.count(col(Device.revoked_at)), func.sum(case((heard, 1), else_=0)))
    total, revoked, online = session.exec(counted.select_from(Device).where(is_shown())).one()
    online = online or 0
    return {"online": online, "offline": total - revoked - online, "revoked": revoked}


def list_set_aside(hub: Hub, device_id: str) -> list[SetAsideInfo]:
    """The messages of a device that could not be taken, newest first; NotFoundError when there is no such device."""
    with hub.reading() as session:
        find_device(session, device_id)
        return aside.newest(session, device_id)


def describe_devices(hub: Hub, session: Session, rows: Sequence[Device]) -> list[DeviceInfo]:
    """Describe devices as lists show them, with their models, in the given order.

    Args:
        hub: the hub.
        session: an open one.
        rows: of the devices.
    """
    models: dict[str, list[DeviceModelInfo]] = defaultdict(list)
    ids = [row.id for row in rows]
    statement = select(DeviceModel).where(col(DeviceModel.device_id).in_(ids)).order_by(col(DeviceModel.model))
    for model in session.exec(statement):
        models[model.device_id].append(DeviceModelInfo.model_validate(model))
    now, secret = hub.clock(), hub.device_tokens.group_secret
    problems = {row.id: problem_of(row, now) for row in rows}
    return [
        DeviceInfo(
            **row.model_dump(exclude=HIDDEN | {"problem", "vitals"}),  # of problems, the hub's own word comes first
            vitals=DeviceVitals.model_validate(row.vitals) if row.vitals else None,
            state=state_of(row, now, hub.config.offline_after_s),
            cloned=is_cloned(row, now),
            problem=problems[row.id].problem,
            hint=problems[row.id].hint,
            groups=list(group_ids(secret, row.labels)),
            models=models[row.id],
        )
        for row in rows
    ]


def detail(hub: Hub, device_id: str) -> DeviceDetail:
    """One device with its last events and what is held back from it; NotFoundError when there is none."""
    with hub.reading() as session:
        row = find_device(session, device_id)
        (known,) = describe_devices(hub, session, [row])
        newest = select(DeviceEvent).where(DeviceEvent.device_id == device_id).order_by(col(DeviceEvent.id).desc())
        events = [DeviceEventInfo.model_validate(event) for event in session.exec(newest.limit(EVENTS))]
        held = capabilities.held_back(session, row, known.groups)
    fields = {name: getattr(known, name) for name in DeviceInfo.model_fields}
    held_back = {model: HeldBackRelease.model_validate(release) for model, release in held.items()}
    return DeviceDetail(**fields, held_back=held_back, events=events)


def state_of(row: Device, now: float, offline_after_s: float) -> DeviceState:
    """Return the state of a device: `revoked`, `online`, or `offline` (it said so, or is silent for too long).

    Args:
        row: of the device.
        now: Unix seconds.
        offline_after_s: seconds of silence after which a device is offline.
    """
    if row.revoked_at is not None:
        return "revoked"
    heard = row.last_seen_at is not None and now - row.last_seen_at < offline_after_s
    return "online" if row.online and heard else "offline"


def is_cloned(row: Device, now: float) -> bool:
    """Tell whether two machines connect as this device; not of a revoked one, which nobody hears any more."""
    return row.revoked_at is None and still_cloned(row.sessions.get("cloned_at"), now)


def problem_of(row: Device, now: float) -> Problem:
    """Return the device's fault and its remedy: the hub's own finding, else the device's report."""
    if is_cloned(row, now):
        return Problem(IN_USE_TWICE, CLONED)
    if row.revoked_at is None and still_slowed(row.sessions.get("slowed_at"), now):
        return Problem(TOO_MANY, SLOWED)
    return Problem(str(row.info.get("problem", "")), str(row.info.get("hint", "")))

"""Devices: who they are, what they run, and what an operator may change about them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from msgspec import UNSET, Struct, UnsetType
from sqlmodel import Session, col, select
from starlette.concurrency import run_in_threadpool

from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.identity.groups import groups_of
from cloud_hub.ingest.aside import newest
from cloud_hub.rollouts import capabilities
from cloud_hub.routes.deps import Admin, Caller, HubDep, OperatorUser, Viewer, decode, page
from cloud_hub.store.tables import ChannelRow, Device, DeviceEvent, DeviceModel
from cloud_hub.trust.rows import status_in_words
from fleet.protocol.names import check_name

router = APIRouter(prefix="/api/v1/devices", tags=["devices (operators)"])
_PAGE = 200
_LABEL_LIMIT = 64


class Changes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `PATCH` may change. In `labels` and `pins`, null removes an entry; others stay."""

    labels: dict[str, str | None] | UnsetType = UNSET
    pins: dict[str, int | None] | UnsetType = UNSET
    channel: str | UnsetType = UNSET


@router.get("")
def list_devices(
    hub: HubDep,
    caller: Viewer,
    label: Annotated[list[str] | None, Query()] = None,
    channel: str = "",
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = _PAGE,
) -> dict[str, Any]:
    """Devices by id; `label=k=v` may come several times and all must hold."""
    wanted = dict(_label(text) for text in label or [])
    statement = select(Device).where(col(Device.id) > after).order_by(col(Device.id))
    if channel:
        statement = statement.where(Device.channel == channel)
    with hub.reading() as session:
        matching = (row for row in session.exec(statement) if wanted.items() <= row.labels.items())
        rows = [row for row, _ in zip(matching, range(limit + 1), strict=False)]
        shown = [describe(hub, session, row) for row in rows[:limit]]
    return page(shown, rows[limit - 1].id if len(rows) > limit else None)


@router.get("/{device_id}")
def show(device_id: str, hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """One device with its last events."""
    with hub.reading() as session:
        row = find_device(session, device_id)
        last = col(DeviceEvent.id).desc()
        events = session.exec(select(DeviceEvent).where(DeviceEvent.device_id == device_id).order_by(last).limit(50))
        shown = describe(hub, session, row)
        held = msgspec.to_builtins(capabilities.held_back(session, row, shown["groups"]))
        return {**shown, "held_back": held, "events": [event.model_dump() for event in events]}


@router.get("/{device_id}/set-aside")
def set_aside(device_id: str, hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """The messages of a device that could not be taken, with their reasons, newest first."""
    with hub.reading() as session:
        find_device(session, device_id)
        return page(newest(session, device_id))


@router.patch("/{device_id}")
async def change(device_id: str, request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Change labels, pins or the channel. The device learns it at its next look."""
    wanted = decode(await request.body(), Changes)
    return await run_in_threadpool(_change, hub, device_id, wanted, caller)


def _change(hub: Hub, device_id: str, wanted: Changes, caller: Caller) -> dict[str, Any]:
    with hub.session() as session:
        row = find_device(session, device_id, lock=True)
        detail: dict[str, Any] = {}
        if wanted.labels is not UNSET:
            row.labels = _merged(row.labels, {check_label(k, v): v for k, v in wanted.labels.items()})
            detail["labels"] = row.labels
        if wanted.pins is not UNSET:
            for model, number in wanted.pins.items():
                _check_pin(session, model, number)
            row.pins = _merged(row.pins, wanted.pins)
            detail["pins"] = row.pins
        if wanted.channel is not UNSET:
            if session.get(ChannelRow, wanted.channel) is None:
                raise NotFoundError(f"no channel {wanted.channel!r}", subject=wanted.channel, hint="fleet channel list")
            row.channel = detail["channel"] = wanted.channel
        session.add(row)
        hub.audit(session, caller.actor, "device.change", device_id, detail)
        return describe(hub, session, row)


@router.post("/{device_id}/revoke")
def revoke(device_id: str, hub: HubDep, caller: Admin) -> dict[str, Any]:
    """End a device's access at once: its calls are refused and its messages dropped."""
    with hub.session() as session:
        row = find_device(session, device_id, lock=True)
        if row.revoked_at is None:
            row.revoked_at, row.online = hub.clock(), False
            session.add(row)
            hub.audit(session, caller.actor, "device.revoke", device_id)
        return describe(hub, session, row)


def find_device(session: Session, device_id: str, *, lock: bool = False) -> Device:
    """The device (its row locked until the transaction ends, if asked), or NotFoundError."""
    row = session.get(Device, device_id, with_for_update=lock)
    if row is None:
        raise NotFoundError(f"no device {device_id!r}", subject=device_id, hint="list them: fleet device list")
    return row


def describe(hub: Hub, session: Session, row: Device) -> dict[str, Any]:
    """A device as the API shows it, with its models and its state (`online`, `offline`, `revoked`)."""
    hidden = {"public_key", "certificate", "mqtt_password", "sessions"}
    models = session.exec(select(DeviceModel).where(DeviceModel.device_id == row.id).order_by(col(DeviceModel.model)))
    return {
        **row.model_dump(exclude=hidden),
        "state": state_of(row, hub.clock(), hub.config.offline_after_s),
        "groups": groups_of(hub.device_tokens.group_secret, row.labels),
        "models": [model.model_dump(exclude={"device_id"}) for model in models],
    }


def state_of(row: Device, now: float, offline_after_s: float) -> str:
    """`revoked`, `online`, or `offline` (said so, or silent for too long)."""
    if row.revoked_at is not None:
        return "revoked"
    heard = row.last_seen_at is not None and now - row.last_seen_at < offline_after_s
    return "online" if row.online and heard else "offline"


def check_label(key: str, value: str | None) -> str:
    """Return `key` when the label is within its bounds."""
    check_name(key, "label")
    if value is not None and not (0 < len(value) <= _LABEL_LIMIT and value.isprintable()):
        raise InvalidError(
            f"the value of label {key!r} is not valid",
            subject=key,
            hint=f"use 1 to {_LABEL_LIMIT} printable characters",
        )
    return key


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidError(f"not a label: {text!r}", subject="label", hint="write key=value")
    return key, value


def _merged(old: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**old, **changes}.items() if value is not None}


def _check_pin(session: Session, model: str, number: int | None) -> None:
    if number is None:
        return
    status = status_in_words(session, model, number)
    if status != "published":
        raise InvalidError(
            f"release {number} of {model!r} is {status}", subject=f"{model}/{number}", hint="fleet release list"
        )

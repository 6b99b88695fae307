"""Devices: who they are, what they run, and what an operator may change about them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from cloud_hub.api.access import Admin, HubDep, OperatorUser, Viewer
from cloud_hub.api.bodies import JsonBody
from cloud_hub.api.openapi import errors
from cloud_hub.api.params import KeyPath, KeyQuery
from cloud_hub.devices import answers, changes, deleting, status, vitals
from cloud_hub.devices.explain import explain_device
from cloud_hub.errors import InvalidError
from cloud_hub.ingest.commands import send_command
from fleet.api.channels import ChannelExplanation
from fleet.api.devices import (
    CommandInfo,
    DeletedDevice,
    DeviceChanges,
    DeviceDetail,
    DeviceInfo,
    DevicePage,
    NewCommand,
    QueuedCommand,
    SetAsidePage,
)
from fleet.api.types import Int64, Key, Moment
from fleet.api.vitals import VitalsPage

router = APIRouter(prefix="/api/v1/devices", tags=["devices (operators)"])
_PAGE = 200
_MAX_LABELS = 64


@router.get("")
def list_devices(
    hub: HubDep,
    caller: Viewer,
    label: Annotated[list[Key] | None, Query(max_length=_MAX_LABELS)] = None,
    channel: KeyQuery = "",
    after: KeyQuery = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = _PAGE,
) -> DevicePage:
    """Devices by id; `label=k=v` may come several times and all must hold."""
    labels = dict(_label(text) for text in label or [])
    return status.list_devices(hub, labels=labels, channel=channel, after=after, limit=limit)


@router.get("/{device_id}", responses=errors(404))
def show(device_id: KeyPath, hub: HubDep, caller: Viewer) -> DeviceDetail:
    """One device with its last events."""
    return status.detail(hub, device_id)


@router.get("/{device_id}/explain", responses=errors(404))
def explain(device_id: KeyPath, hub: HubDep, caller: Viewer) -> ChannelExplanation:
    """Show the release that a device should run of each model of its channel, and the reason."""
    return explain_device(hub, device_id)


@router.get("/{device_id}/vitals", responses=errors(404))
def list_vitals(
    device_id: KeyPath,
    hub: HubDep,
    caller: Viewer,
    since: Annotated[Moment, Query()] = 0.0,
    after: Annotated[Int64, Query()] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = _PAGE,
) -> VitalsPage:
    """List the vital signs of a device's machine by hour: those that end after `since` (Unix seconds) and begin
    after `after`."""
    return vitals.list_hours(hub, device_id, since=since, after=after, limit=limit)


@router.get("/{device_id}/set-aside", responses=errors(404))
def set_aside(device_id: KeyPath, hub: HubDep, caller: Viewer) -> SetAsidePage:
    """The messages of a device that could not be taken, with their reasons, newest first."""
    return SetAsidePage(items=status.list_set_aside(hub, device_id))


@router.patch("/{device_id}", responses=errors(404, 409))
def change(
    device_id: KeyPath, hub: HubDep, caller: OperatorUser, wanted: Annotated[DeviceChanges, JsonBody(DeviceChanges)]
) -> DeviceInfo:
    """Change labels, pins or the channel. The device learns it at its next look."""
    return changes.change_device(hub, device_id, wanted, actor=caller.actor)


@router.post("/{device_id}/revoke", responses=errors(404))
def revoke(device_id: KeyPath, hub: HubDep, caller: Admin) -> DeviceInfo:
    """End a device's access at once: its calls are refused and its messages dropped."""
    return changes.revoke_device(hub, device_id, actor=caller.actor)


@router.delete("/{device_id}", responses=errors(404, 409))
def delete(device_id: KeyPath, hub: HubDep, caller: Admin) -> DeletedDevice:
    """Delete a device that was revoked or never came; ask again while `left` is true. It stays out."""
    return deleting.delete_device(hub, device_id, actor=caller.actor)


@router.post("/{device_id}/commands", status_code=202, responses=errors(404, 409))
def command(
    device_id: KeyPath, hub: HubDep, caller: OperatorUser, wanted: Annotated[NewCommand, JsonBody(NewCommand)]
) -> QueuedCommand:
    """Queue a command; the path of its id says how it stands."""
    sent = send_command(hub, device_id, wanted.kind, wanted.args, actor=caller.actor)
    return QueuedCommand(id=sent, device=device_id, kind=wanted.kind)


@router.get("/{device_id}/commands/{command}", responses=errors(404))
def show_command(device_id: KeyPath, command: KeyPath, hub: HubDep, caller: Viewer) -> CommandInfo:
    """Show the state of a command, and the device's answer."""
    return answers.command_of(hub, device_id, command)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidError(f"not a label: {text!r}", subject="label", hint="write key=value")
    return key, value

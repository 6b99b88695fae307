"""Channels: the signed desired state. Every change is a new signed version."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from cloud_hub.api.access import HubDep, OperatorUser, Viewer
from cloud_hub.api.bodies import JsonBody
from cloud_hub.api.openapi import errors
from cloud_hub.api.params import KeyPath
from cloud_hub.rollouts import settle
from cloud_hub.trust import channels
from fleet.api.channels import ChangedChannel, ChannelChanges, ChannelInfo, ChannelPage, EntryChanges, NewChannel

router = APIRouter(prefix="/api/v1/channels", tags=["channels"])


@router.get("")
def list_channels(hub: HubDep, caller: Viewer) -> ChannelPage:
    """All channels with their documents."""
    return ChannelPage(items=channels.list_channels(hub))


@router.post("", status_code=201, responses=errors(409))
def create(hub: HubDep, caller: OperatorUser, wanted: Annotated[NewChannel, JsonBody(NewChannel)]) -> ChangedChannel:
    """Make a channel that names no model yet, so that devices can be enrolled to follow it."""
    return channels.create_channel(hub, wanted.name, actor=caller.actor)


@router.get("/{name}", responses=errors(404))
def show(name: KeyPath, hub: HubDep, caller: Viewer) -> ChannelInfo:
    """One channel."""
    return channels.show_channel(hub, name)


@router.put("/{name}/models/{model}", responses=errors(404, 409))
def set_model(
    name: KeyPath,
    model: KeyPath,
    hub: HubDep,
    caller: OperatorUser,
    wanted: Annotated[EntryChanges, JsonBody(EntryChanges)],
) -> ChangedChannel:
    """Set a model's default release and policies; the channel is made when it does not exist."""
    settle(hub, name, actor=caller.actor)
    return channels.set_model(hub, name, model, wanted, actor=caller.actor)


@router.patch("/{name}", responses=errors(404, 409))
def set_channel(
    name: KeyPath, hub: HubDep, caller: OperatorUser, wanted: Annotated[ChannelChanges, JsonBody(ChannelChanges)]
) -> ChangedChannel:
    """Set how devices of the channel report and fetch."""
    return channels.change_channel(hub, name, wanted, actor=caller.actor)


@router.delete("/{name}/models/{model}", responses=errors(404, 409))
def remove_model(name: KeyPath, model: KeyPath, hub: HubDep, caller: OperatorUser) -> ChangedChannel:
    """Take a model off a channel; its devices keep serving what they have of it."""
    settle(hub, name, actor=caller.actor)
    return channels.remove_model(hub, name, model, actor=caller.actor)


@router.delete("/{name}", responses=errors(404, 409))
def delete(name: KeyPath, hub: HubDep, caller: OperatorUser) -> ChannelInfo:
    """Delete a channel that no device follows, no claim token leads to, and no rollout runs on."""
    return channels.delete_channel(hub, name, actor=caller.actor)

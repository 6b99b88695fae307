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
from fleet.api.channels import ChangedChannel, ChannelChanges, ChannelInfo, ChannelPage, EntryChanges

router = APIRouter(prefix="/api/v1/channels", tags=["channels"])


@router.get("")
def list_channels(hub: HubDep, caller: Viewer) -> ChannelPage:
    """All channels with their documents."""
    return ChannelPage(items=channels.list_channels(hub))


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

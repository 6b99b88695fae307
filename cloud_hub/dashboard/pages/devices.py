"""Devices: finding some, and one."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from cloud_hub.api.params import KeyPath, KeyQuery
from cloud_hub.dashboard.rendering import Framed
from cloud_hub.dashboard.views.devices import channels, device_page, event_in_words
from cloud_hub.devices.finding import Wanted, find_devices
from fleet.api.types import INT64

router = APIRouter(prefix="/devices", include_in_schema=False)
PAGE = 50
Release = Annotated[str, Query(pattern=r"^[0-9]{0,18}$")]


@router.get("")
def show_list(
    frame: Framed,
    after: KeyQuery = "",
    state: Literal["", "online", "offline", "revoked", "ill"] = "",
    channel: KeyQuery = "",
    label: KeyQuery = "",
    model: KeyQuery = "",
    release: Release = "",
    reason: KeyQuery = "",
    text: KeyQuery = "",
) -> Response:
    """Those that are ill first, each by id; every field of the form narrows them down."""
    number = min(int(release), INT64) if release else None
    wanted = Wanted(
        state=state, channel=channel, label=label, model=model, release=number, reason=reason, text=text.strip()
    )
    found = find_devices(frame.hub, wanted, after, PAGE)
    return frame.show("devices.html", found=found, wanted=wanted, channels=channels(frame.hub), after=after)


@router.get("/{device_id}")
def show(device_id: KeyPath, frame: Framed) -> Response:
    """One device: what is ill, why, and its month."""
    view = device_page(frame.hub, device_id, month=not frame.is_renewal)
    return frame.show("device.html", view=view, device=view.device, in_words=event_in_words)

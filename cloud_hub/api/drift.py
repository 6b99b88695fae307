"""`/api/v1/drift` and `/api/v1/alarms`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from cloud_hub.api.access import HubDep, OperatorUser, Viewer
from cloud_hub.api.openapi import errors
from cloud_hub.api.params import KeyPath, KeyQuery, NumberPath
from cloud_hub.drift import monitors
from fleet.api.drift import AlarmInfo, AlarmPage, MonitorPage, Rebaseline, Rebaselined, StreamPage
from fleet.api.types import INT32

router = APIRouter(prefix="/api/v1", tags=["drift"])


@router.get("/drift")
def list_monitors(hub: HubDep, caller: Viewer, model: KeyQuery = "") -> MonitorPage:
    """Every monitor by model and release, or one model's: its state, and what has most evidence that its inputs have
    moved. Releases that are not watched any more are listed, too."""
    return MonitorPage(items=monitors.list_monitors(hub, model))


@router.get("/drift/{model}/streams")
def list_streams(
    model: KeyPath,
    hub: HubDep,
    caller: Viewer,
    kind: KeyQuery = "",
    release: Annotated[int, Query(ge=0, le=INT32)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> StreamPage:
    """List the streams in which a model's inputs are watched, those with most evidence first; `kind`: device, group
    or fleet; `release` 0: of every one that is watched."""
    return StreamPage(items=monitors.list_streams(hub, model, release, kind, limit))


@router.post("/drift/{model}/rebaseline", responses=errors(404))
def rebaseline(model: KeyPath, body: Rebaseline, hub: HubDep, caller: OperatorUser) -> Rebaselined:
    """Begin baselines anew: what devices see from now on is what is usual. Alarms about all of it are closed."""
    return monitors.rebaseline(hub, model, body, actor=caller.actor)


@router.get("/alarms")
def list_alarms(hub: HubDep, caller: Viewer) -> AlarmPage:
    """All alarms, newest first."""
    return AlarmPage(items=monitors.list_alarms(hub))


@router.post("/alarms/{alarm}/close", responses=errors(400, 404))
def close(alarm: NumberPath, hub: HubDep, caller: OperatorUser, usual: bool = False) -> AlarmInfo:
    """Close an alarm. What it names goes on being watched against the same baseline, from nothing. With `usual`, what
    came while it was open is usual at its hours of the week, which may be learnt from it."""
    return monitors.close_alarm(hub, alarm, actor=caller.actor, usual=usual)

"""`/api/v1/drift` and `/api/v1/alarms`."""

from __future__ import annotations

from fastapi import APIRouter

from cloud_hub.api.access import HubDep, OperatorUser, Viewer
from cloud_hub.api.openapi import errors
from cloud_hub.api.params import KeyQuery, NumberPath
from cloud_hub.drift import monitors
from fleet.api.drift import AlarmInfo, AlarmPage, MonitorPage

router = APIRouter(prefix="/api/v1", tags=["drift"])


@router.get("/drift")
def list_monitors(hub: HubDep, caller: Viewer, model: KeyQuery = "") -> MonitorPage:
    """Every monitor, or one model's: its state, last distance, margin and evidence against its limit."""
    return MonitorPage(items=monitors.list_monitors(hub, model))


@router.get("/alarms")
def list_alarms(hub: HubDep, caller: Viewer) -> AlarmPage:
    """All alarms, newest first."""
    return AlarmPage(items=monitors.list_alarms(hub))


@router.post("/alarms/{alarm}/close", responses=errors(404))
def close(alarm: NumberPath, hub: HubDep, caller: OperatorUser) -> AlarmInfo:
    """Close an alarm. The monitor goes on watching against the same baseline, from nothing."""
    return monitors.close_alarm(hub, alarm, actor=caller.actor)

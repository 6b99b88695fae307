"""`/api/v1/drift` and `/api/v1/alarms`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlmodel import col, select

from cloud_hub.errors import NotFoundError
from cloud_hub.routes.deps import HubDep, OperatorUser, Viewer, page
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Alarm, DriftMonitor

router = APIRouter(prefix="/api/v1", tags=["drift"])


@router.get("/drift")
def monitors(hub: HubDep, caller: Viewer, model: str = "") -> dict[str, Any]:
    """Every monitor, or one model's: its state, last distance, margin and evidence against its limit."""
    with hub.reading() as session:
        rows = select(DriftMonitor).order_by(col(DriftMonitor.model))
        found = session.exec(rows.where(DriftMonitor.model == model) if model else rows).all()
        return page([describe(row) for row in found])


@router.get("/alarms")
def alarms(hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """All alarms, newest first."""
    with hub.reading() as session:
        return page([row.model_dump() for row in session.exec(select(Alarm).order_by(col(Alarm.id).desc()))])


@router.post("/alarms/{alarm}/close")
def close(alarm: int, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Close an alarm. The monitor goes on watching against the same baseline, from nothing."""
    with hub.session() as session:
        model = session.exec(select(Alarm.model).where(Alarm.id == alarm)).first()
        if model is None:
            raise NotFoundError(f"no alarm {alarm}", subject=str(alarm), hint="see: fleet drift status")
        lock_name(session, f"drift:{model}")  # the engine, which counts windows into the same monitor, waits
        row = session.get_one(Alarm, alarm)
        if row.status != "closed":
            row.status = "closed"
            _watch_again(session.get(DriftMonitor, row.model))
            hub.audit(session, caller.actor, "alarm.close", str(alarm), {"model": row.model})
        session.add(row)
        return row.model_dump()


def _watch_again(monitor: DriftMonitor | None) -> None:
    if monitor is not None and monitor.state == "alarmed":
        watch = {**monitor.document["watch"], "detector": {}, "recent": [], "seen": []}
        monitor.document = {**monitor.document, "watch": watch}
        monitor.state = "watching"


def describe(row: DriftMonitor) -> dict[str, Any]:
    """A monitor as the API shows it, without its sketches."""
    watch = row.document.get("watch", {})
    last = (watch.get("recent") or [{}])[-1]
    return {
        "model": row.model,
        "state": row.state,
        "release": row.release,
        "sketch_id": row.sketch_id,
        "baseline_windows": watch.get("baseline", {}).get("windows", len(row.document.get("rows", ()))),
        "distance": last.get("distance"),
        "margin": last.get("margin"),
        "evidence": last.get("log_e"),
        "limit": row.document.get("limit"),
        "updated_at": row.updated_at,
    }

"""Monitors and alarms as the API shows them, and the closing of an alarm."""

from __future__ import annotations

from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.errors import NotFoundError
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Alarm, DriftMonitor
from fleet.api.drift import AlarmInfo, MonitorInfo


def list_monitors(hub: Hub, model: str) -> list[MonitorInfo]:
    """Every monitor by model, or one model's."""
    rows = select(DriftMonitor).order_by(col(DriftMonitor.model))
    with hub.reading() as session:
        return [describe(row) for row in session.exec(rows.where(DriftMonitor.model == model) if model else rows)]


def list_alarms(hub: Hub) -> list[AlarmInfo]:
    """All alarms, newest first."""
    rows = select(Alarm).order_by(col(Alarm.id).desc())
    with hub.reading() as session:
        return [AlarmInfo.model_validate(vars(row)) for row in session.exec(rows)]


def close_alarm(hub: Hub, alarm: int, *, actor: str) -> AlarmInfo:
    """Close an alarm. The monitor goes on watching against the same baseline, from nothing. NotFoundError."""
    with hub.session() as session:
        model = session.exec(select(Alarm.model).where(Alarm.id == alarm)).first()
        if model is None:
            raise NotFoundError(f"no alarm {alarm}", subject=str(alarm), hint="see: fleet drift status")
        lock_name(session, f"drift:{model}")  # the engine, which counts windows into the same monitor, waits
        row = session.get_one(Alarm, alarm)
        if row.status != "closed":
            row.status = "closed"
            _watch_again(session.get(DriftMonitor, row.model))
            hub.audit(session, actor, "alarm.close", str(alarm), {"model": row.model})
        session.add(row)
        return AlarmInfo.model_validate(row)


def describe(row: DriftMonitor) -> MonitorInfo:
    """A monitor as the API shows it, without its sketches."""
    watch = row.document.get("watch", {})
    last = (watch.get("recent") or [{}])[-1]
    return MonitorInfo(
        model=row.model,
        state=row.state,
        release=row.release,
        sketch_id=row.sketch_id,
        baseline_windows=watch.get("baseline", {}).get("windows", len(row.document.get("rows", ()))),
        distance=last.get("distance"),
        margin=last.get("margin"),
        evidence=last.get("log_e"),
        limit=row.document.get("limit"),
        updated_at=row.updated_at,
    )


def _watch_again(monitor: DriftMonitor | None) -> None:
    if monitor is not None and monitor.state == "alarmed":
        watch = {**monitor.document["watch"], "detector": {}, "recent": [], "seen": []}
        monitor.document = {**monitor.document, "watch": watch}
        monitor.state = "watching"

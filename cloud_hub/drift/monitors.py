"""Monitors and alarms as the API shows them, and the closing of an alarm."""

from __future__ import annotations

from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.drift import truth
from cloud_hub.drift.meaning import Track
from cloud_hub.drift.response import described
from cloud_hub.errors import NotFoundError
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Alarm, DriftMonitor, MeaningMonitor
from fleet.api.drift import Agreement, AlarmInfo, MonitorInfo

NO_SKETCH = "no sketch"  # the state of a model whose inputs nobody watches


def list_monitors(hub: Hub, model: str) -> list[MonitorInfo]:
    """Every monitor by model, or one model's; a model without a sketch is watched by its audits and labels alone."""
    with hub.reading() as session:
        inputs = {row.model: row for row in session.exec(select(DriftMonitor))}
        answers = {row.model: row for row in session.exec(select(MeaningMonitor))}
    names = sorted(inputs.keys() | answers.keys())
    return [describe(name, inputs.get(name), answers.get(name)) for name in names if not model or name == model]


def list_alarms(hub: Hub) -> list[AlarmInfo]:
    """All alarms, newest first."""
    rows = select(Alarm).order_by(col(Alarm.id).desc())
    with hub.reading() as session:
        return described(session, list(session.exec(rows)))


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
            if row.detail.get("kind") == truth.KIND:
                truth.watch_again(session, row.model)
            else:
                _watch_again(session.get(DriftMonitor, row.model))
            hub.audit(session, actor, "alarm.close", str(alarm), {"model": row.model})
        session.add(row)
        return described(session, [row])[0]


def describe(model: str, inputs: DriftMonitor | None, answers: MeaningMonitor | None) -> MonitorInfo:
    """A model's monitors as the API shows them, without their sketches."""
    rows = [row for row in (inputs, answers) if row is not None]
    document = inputs.document if inputs is not None else {}
    watch = document.get("watch", {})
    last = (watch.get("recent") or [{}])[-1]
    watched = truth.read(answers) if answers is not None else None
    return MonitorInfo(
        model=model,
        state=inputs.state if inputs is not None else NO_SKETCH,
        release=rows[0].release,
        sketch_id=inputs.sketch_id if inputs is not None else "",
        baseline_windows=watch.get("baseline", {}).get("windows", len(document.get("rows", ()))),
        distance=last.get("distance"),
        margin=last.get("margin"),
        evidence=last.get("log_e"),
        limit=document.get("limit"),
        audits=_agreement(watched.audits, watched.alarmed == "audits") if watched is not None else None,
        labels=_agreement(watched.labels, watched.alarmed == "labels") if watched is not None else None,
        updated_at=max(row.updated_at for row in rows),
    )


def _agreement(track: Track, alarmed: bool) -> Agreement:
    record = track.record
    state = "alarmed" if alarmed else "watching" if record is not None else "baseline" if track.first else "waiting"
    return Agreement(
        state=state,
        now=track.now,
        counted=track.counted,
        record=record.mean if record is not None else None,
        margin=record.margin if record is not None else None,
        evidence=track.log_e if record is not None else None,
    )


def _watch_again(monitor: DriftMonitor | None) -> None:
    if monitor is not None and monitor.state == "alarmed":
        watch = {**monitor.document["watch"], "detector": {}, "recent": [], "seen": []}
        monitor.document = {**monitor.document, "watch": watch}
        monitor.state = "watching"

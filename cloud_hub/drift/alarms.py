"""Alarms about a model's inputs: one is open at a time, and names every stream that has moved since it was raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub.drift import records
from cloud_hub.drift.explain import Moved, explain
from cloud_hub.drift.streams import Settings, Stream
from cloud_hub.store.tables import Alarm, DriftMonitor, DriftStream, WindowRow

KIND = "inputs"  # in an alarm's detail; alarms of earlier versions have none and are of the same kind
NAMES = 200  # devices that a detail lists
LOOKED_AT = 500  # devices with most evidence that may belong to a group's alarm
SOME = 60  # windows before and after, which the answers are taken from
BELONGS = 3.0  # log evidence by which a device counts as part of its group's or the fleet's move


def open_alarm(session: Session, model: str) -> Alarm | None:
    """The open alarm about a model's inputs."""
    rows = session.exec(select(Alarm).where(Alarm.model == model, Alarm.status != "closed").order_by(col(Alarm.id)))
    return next((row for row in rows if row.detail.get("kind", KIND) == KIND), None)


def raise_or_extend(
    session: Session, monitor: DriftMonitor, over: Sequence[Stream], settings: Settings, now: float
) -> tuple[Alarm, bool]:
    """The alarm that names the streams, and whether it is new."""
    alarm, new = open_alarm(session, monitor.model), False
    if alarm is None:
        alarm, new = Alarm(model=monitor.model, release=monitor.release, at=now, status="open", detail={}), True
        session.add(alarm)
        session.flush()
    for stream in over:
        stream.alarm = alarm.id or 0
    records.save(session, monitor.model, over, settings, now)
    named = records.named_by(session, monitor.model, alarm.id or 0)
    kept = {key: alarm.detail[key] for key in ("features",) if key in alarm.detail}  # what others have found out
    alarm.detail = {**_detail(session, monitor, named, settings), **kept}
    session.add(alarm)
    return alarm, new


def close_all(session: Session, model: str, why: str) -> None:
    """Close the open alarms about a model's inputs."""
    for alarm in session.exec(select(Alarm).where(Alarm.model == model, Alarm.status != "closed")):
        if alarm.detail.get("kind", KIND) != KIND:  # those follow the release, not the encoder
            continue
        alarm.status = "closed"
        alarm.detail = {**alarm.detail, "closed": why}
        session.add(alarm)


def close_unnamed(session: Session, model: str, why: str) -> Alarm | None:
    """Close the open alarm about a model's inputs unless some stream that it names is still watched; the alarm then."""
    alarm = open_alarm(session, model)
    if alarm is not None and not records.named_by(session, model, alarm.id or 0):
        close_all(session, model, why)
        return None
    return alarm


def _detail(session: Session, monitor: DriftMonitor, named: Sequence[Stream], settings: Settings) -> dict[str, Any]:
    devices = {stream.name for stream in named if stream.kind == "device"}
    if any(stream.kind != "device" for stream in named):
        moved = records.most_moved(session, monitor.model, LOOKED_AT)
        devices |= {stream.name for stream in moved if stream.evidence >= BELONGS}
    leading = max(named, key=lambda stream: stream.evidence - stream.limit(settings))
    since = min((stream.since for stream in named if stream.since is not None), default=monitor.updated_at)
    total = len(session.exec(select(DriftStream.name).where(*_devices_of(monitor.model))).all())
    before, after = _windows(session, monitor, devices, since)
    return explain(
        Moved(
            streams=named,
            leading=leading,
            limit=leading.limit(settings),
            devices=sorted(devices),
            of_devices=total,
            since=since,
        ),
        before,
        after,
        most=NAMES,
    )


def _windows(
    session: Session, monitor: DriftMonitor, devices: set[str], since: float
) -> tuple[list[WindowRow], list[WindowRow]]:
    """Some windows before and after the move, of the devices that moved where they are few."""
    query = select(WindowRow).where(WindowRow.model == monitor.model, WindowRow.id <= monitor.last_window)  # type: ignore[operator]
    if 0 < len(devices) <= NAMES:
        query = query.where(col(WindowRow.device_id).in_(sorted(devices)))
    newest = query.order_by(col(WindowRow.ended_at).desc()).limit(SOME)
    after = session.exec(newest.where(WindowRow.ended_at > since))
    return list(session.exec(newest.where(WindowRow.ended_at <= since))), list(after)


def _devices_of(model: str) -> tuple[Any, Any]:
    return DriftStream.model == model, DriftStream.kind == "device"

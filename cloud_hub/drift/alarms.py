"""Alarms about a release's inputs: one is open at a time, and names every stream that has moved since it was raised."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub.drift import records
from cloud_hub.drift.company import Company, company_of
from cloud_hub.drift.explain import MovedStreams, explain
from cloud_hub.drift.streams import Settings, Stream, watch_again
from cloud_hub.store.tables import Alarm, DriftMonitor, DriftStream, WindowRow, WindowSum
from cloud_hub.store.windows import sums_before

KIND = "inputs"  # in an alarm's detail; alarms of earlier versions have none and are of the same kind
NAMES = 200  # devices that a detail lists
LOOKED_AT = 500  # devices with most evidence that may belong to a group's alarm
COMPARED = 200  # devices that the one which an alarm names first is compared with
SOME = 60  # windows before and after, which the answers are taken from
BELONGS = 3.0  # log evidence by which a device counts as part of its group's or the fleet's move


def open_alarm(session: Session, model: str, release: int) -> Alarm | None:
    """Return the open alarm about a release's inputs."""
    rows = session.exec(select(Alarm).where(*_open_of(model, release)).order_by(col(Alarm.id)))
    return next((row for row in rows if row.detail.get("kind", KIND) == KIND), None)


def raise_or_extend(
    session: Session, monitor: DriftMonitor, over: Sequence[Stream], settings: Settings, now: float
) -> tuple[Alarm, bool]:
    """Raise an alarm that names the streams, or add them to the open one.

    Args:
        session: a writing transaction.
        monitor: the release's.
        over: the streams whose evidence lies over their limits.
        settings: by which they are watched.
        now: Unix seconds.

    Returns:
        The alarm, and whether it is new.
    """
    alarm, new = open_alarm(session, monitor.model, monitor.release), False
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


def close_all(session: Session, model: str, release: int, why: str) -> None:
    """Close the open alarms about a release's inputs."""
    for alarm in session.exec(select(Alarm).where(*_open_of(model, release))):
        if alarm.detail.get("kind", KIND) != KIND:  # those are not about a baseline of the inputs
            continue
        alarm.status = "closed"
        alarm.detail = {**alarm.detail, "closed": why}
        session.add(alarm)


def let_go(session: Session, streams: Collection[Stream], alarm: int) -> None:
    """Watch streams again that name an alarm which is closed, other than the open one `alarm` (0: none): alarms of
    earlier versions spoke of several releases."""
    others = {stream.alarm for stream in streams} - {0, alarm}
    closed = {number for number in others if (row := session.get(Alarm, number)) is None or row.status == "closed"}
    for stream in streams:
        if stream.alarm in closed:
            watch_again(stream)


def _detail(session: Session, monitor: DriftMonitor, named: Sequence[Stream], settings: Settings) -> dict[str, Any]:
    devices = {stream.name for stream in named if stream.kind == "device"}
    if any(stream.kind != "device" for stream in named):
        moved = records.most_moved(session, monitor.model, monitor.release, LOOKED_AT)
        devices |= {stream.name for stream in moved if stream.evidence >= BELONGS}
    leading = max(named, key=lambda stream: stream.evidence - stream.limit(settings))
    since = min((stream.since for stream in named if stream.since is not None), default=monitor.updated_at)
    total = len(session.exec(select(DriftStream.name).where(*_devices_of(monitor))).all())
    before, after = _windows(session, monitor, devices, since)
    return explain(
        MovedStreams(
            streams=named,
            leading=leading,
            limit=leading.limit(settings),
            devices=sorted(devices),
            of_devices=total,
            since=since,
            company=_company(session, monitor, leading, settings),
        ),
        before,
        after,
        most=NAMES,
    )


def _company(session: Session, monitor: DriftMonitor, leading: Stream, settings: Settings) -> Company:
    """Count the other devices that have moved as well; a group or the fleet is all of them."""
    if leading.kind != "device":
        return Company()
    others = records.steady_devices(session, monitor.model, monitor.release, COMPARED)
    return company_of(leading, others, settings.weights)


def _windows(
    session: Session, monitor: DriftMonitor, devices: set[str], since: float
) -> tuple[list[WindowRow | WindowSum], list[WindowRow]]:
    """Some windows before and after the move, of the devices that moved where they are few."""
    model, release = monitor.model, monitor.release
    query = select(WindowRow).where(WindowRow.model == model, WindowRow.release == release)
    query = query.where(col(WindowRow.id) <= monitor.last_window)
    few = devices if len(devices) <= NAMES else set()
    if few:
        query = query.where(col(WindowRow.device_id).in_(sorted(few)))
    newest = query.order_by(col(WindowRow.ended_at).desc()).limit(SOME)
    after = session.exec(newest.where(WindowRow.ended_at > since))
    before = list(session.exec(newest.where(WindowRow.ended_at <= since)))
    return [*before, *sums_before(session, model, release, few, since, SOME - len(before))], list(after)


def _devices_of(monitor: DriftMonitor) -> tuple[Any, Any, Any]:
    ours = DriftStream.model == monitor.model, DriftStream.release == monitor.release
    return (*ours, DriftStream.kind == "device")


def _open_of(model: str, release: int) -> tuple[Any, Any, Any]:
    return Alarm.model == model, Alarm.release == release, Alarm.status != "closed"

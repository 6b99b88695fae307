"""Streams in the database: loaded when there is news of them, written when they have changed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, delete, tuple_
from sqlmodel import Session, and_, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from cloud_hub.drift.input_state import DeviceInputs, InputMonitorState, without
from cloud_hub.drift.stream_bytes import decode, encode
from cloud_hub.drift.streams import Settings, Stream
from cloud_hub.store.tables import (
    Device,
    DeviceModel,
    DriftMonitor,
    DriftStream,
    InputMonitor,
    InputWatch,
    MeaningMonitor,
)

log = logging.getLogger(__name__)
Key = tuple[str, str]
HELD = "drift rows"
AT_ONCE = 500  # names in one statement


def load(session: Session, model: str, release: int, devices: Iterable[str]) -> dict[Key, Stream]:
    """Load the streams of these devices, and all groups and the fleet."""
    query = select(DriftStream).where(*_of(model, release))
    rows = list(session.exec(query.where(col(DriftStream.kind) != "device")))
    names = sorted(devices)
    for start in range(0, len(names), AT_ONCE):
        some = col(DriftStream.name).in_(names[start : start + AT_ONCE])
        rows += session.exec(query.where(DriftStream.kind == "device", some))
    session.info[HELD] = rows  # or the session forgets them, and asks for each again when it is saved
    return {(row.kind, row.name): stream for row in rows if (stream := read(row)) is not None}


def most_moved(session: Session, model: str, release: int, most: int) -> list[Stream]:
    """Load the device streams with most evidence."""
    query = select(DriftStream).where(*_of(model, release), DriftStream.kind == "device")
    rows = session.exec(query.order_by(col(DriftStream.evidence).desc()).limit(most))
    return [stream for row in rows if (stream := read(row)) is not None]


def steady_devices(session: Session, model: str, release: int, most: int) -> list[Stream]:
    """Load some device streams with a steady baseline, whatever their evidence.

    Args:
        session: for reading.
        model: the model's name.
        release: the release that the devices serve.
        most: at most so many.
    """
    query = select(DriftStream).where(*_of(model, release), DriftStream.kind == "device", DriftStream.state == "steady")
    rows = session.exec(query.order_by(col(DriftStream.name)).limit(most))
    return [stream for row in rows if (stream := read(row)) is not None]


def named_by(session: Session, model: str, alarm: int) -> list[Stream]:
    """Load the streams that an open alarm names; one of an earlier version may name those of several releases."""
    rows = session.exec(select(DriftStream).where(DriftStream.model == model, DriftStream.alarm == alarm))
    return [stream for row in rows if (stream := read(row)) is not None]


def with_evidence(session: Session, model: str, release: int, alarm: int) -> list[Stream]:
    """Load the streams of a release that have some evidence, and those that an alarm names."""
    some = and_(DriftStream.release == release, or_(col(DriftStream.alarm) != 0, col(DriftStream.evidence) > 0.0))
    rows = select(DriftStream).where(DriftStream.model == model, or_(some, DriftStream.alarm == alarm))
    return [stream for row in session.exec(rows) if (stream := read(row)) is not None]


def save(session: Session, model: str, streams: Iterable[Stream], settings: Settings, now: float) -> None:
    """Write streams."""
    for stream in streams:
        key = (model, stream.release, stream.kind, stream.name)
        row = session.get(DriftStream, key)
        if row is None:
            row = DriftStream(
                model=model,
                release=stream.release,
                kind=stream.kind,
                name=stream.name,
                state="",
                began_at=0.0,
                last_at=0.0,
                updated_at=now,
            )
        row.state, row.windows = stream.state, stream.windows
        row.began_at, row.last_at, row.updated_at = stream.began, stream.last, now
        row.evidence, row.alarm_at, row.alarm = stream.evidence, stream.limit(settings), stream.alarm
        row.distance, row.margin, row.since = stream.distance, stream.margin, stream.since
        row.body = encode(stream)
        session.add(row)
    session.flush()


def forget(session: Session, model: str, release: int, keys: Sequence[Key] | None = None) -> int:
    """Delete some streams, or all of a release, so that they begin anew; return their number."""
    statement = delete(DriftStream).where(*_of(model, release))
    if keys is not None:
        some = [(col(DriftStream.kind) == kind) & (col(DriftStream.name) == name) for kind, name in keys]
        if not some:
            return 0
        statement = statement.where(or_(*some))
    return int(session.connection().execute(statement).rowcount)


def forget_release(session: Session, model: str, release: int) -> None:
    """Forget all streams and monitors of a release."""
    for table in (DriftStream, DriftMonitor, MeaningMonitor, InputWatch, InputMonitor):
        ours = (col(table.model) == model, col(table.release) == release)
        session.connection().execute(delete(table).where(*ours))


def forget_left(session: Session, model: str, before: float) -> None:
    """Forget the streams of devices that do not serve the release any more, and have sent nothing of it since a
    moment (Unix seconds): each release that a device has had would keep some."""
    serves = select(DeviceModel.device_id).where(DeviceModel.model == model)
    streams = delete(DriftStream).where(col(DriftStream.model) == model, col(DriftStream.kind) == "device")
    here = serves.where(col(DeviceModel.device_id) == DriftStream.name, DeviceModel.active == DriftStream.release)
    session.connection().execute(streams.where(col(DriftStream.updated_at) < before, ~here.exists()))
    here = serves.where(col(DeviceModel.device_id) == InputWatch.device_id, DeviceModel.active == InputWatch.release)
    _forget_inputs(session, model, col(InputWatch.updated_at) < before, ~here.exists())


def revoked_devices() -> SelectOfScalar[str]:
    """The names of devices that are revoked: nothing is watched of them, and their windows do not count."""
    return select(Device.id).where(col(Device.revoked_at).is_not(None))


def forget_revoked(session: Session, model: str) -> None:
    """Forget what was watched of devices that are revoked, their inputs' quality and outliers included."""
    revoked = revoked_devices()
    streams = delete(DriftStream).where(col(DriftStream.model) == model, col(DriftStream.kind) == "device")
    session.connection().execute(streams.where(col(DriftStream.name).in_(revoked)))
    _forget_inputs(session, model, col(InputWatch.device_id).in_(revoked))


def _forget_inputs(session: Session, model: str, *which: ColumnElement[bool]) -> None:
    """Forget the inputs of some devices, and count the features that grow without them.

    A statement deletes some and returns them: thousands are never in memory at once, and none goes uncounted.
    """
    ours = (col(InputWatch.model) == model, *which)
    place = (col(InputWatch.release), col(InputWatch.device_id))
    some = select(*place).where(*ours).order_by(*place).limit(AT_ONCE).correlate(None)
    statement = delete(InputWatch).where(*ours, tuple_(*place).in_(some)).returning(place[0], col(InputWatch.document))
    session.flush()
    while rows := session.connection().execute(statement).all():
        by_release = sorted(rows, key=attrgetter("release"))
        for release, gone in groupby(by_release, key=attrgetter("release")):
            _count_without(session, model, release, [msgspec.convert(row.document, DeviceInputs) for row in gone])


def _count_without(session: Session, model: str, release: int, gone: Sequence[DeviceInputs]) -> None:
    monitor = session.get(InputMonitor, (model, release))
    if monitor is None or not any(document.seen for document in gone):
        return
    facts = msgspec.convert(monitor.document, InputMonitorState)
    for document in gone:
        without(facts, document)
    monitor.document = msgspec.to_builtins(facts)
    session.add(monitor)


def open_slots_anew(session: Session, model: str, release: int) -> None:
    """Open the slots of groups and the fleet anew: they gather devices over another time from now on."""
    rows = select(DriftStream).where(*_of(model, release), DriftStream.kind != "device")
    for row in session.exec(rows):
        stream = read(row)
        if stream is not None:
            stream.slot, stream.open_sum, stream.open_devices = -1, None, 0
            row.body = encode(stream)
            session.add(row)
    session.flush()


def read(row: DriftStream) -> Stream | None:
    """A row's stream; None where another version wrote it."""
    try:
        return decode(row.body)
    except (msgspec.DecodeError, ValueError) as error:  # of another version: it begins anew
        log.warning("the drift stream %s %s of %s begins anew: %s", row.kind, row.name, row.model, error)
        return None


def _of(model: str, release: int) -> tuple[Any, Any]:
    return DriftStream.model == model, DriftStream.release == release

"""Streams in the database: loaded when there is news of them, written when they have changed."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

import msgspec
from sqlalchemy import delete
from sqlmodel import Session, col, func, or_, select

from cloud_hub.drift.streams import Settings, Stream, decode, encode
from cloud_hub.store.tables import DriftStream

log = logging.getLogger(__name__)
Key = tuple[str, str]
HELD = "drift rows"
AT_ONCE = 500  # names in one statement


def load(session: Session, model: str, devices: Iterable[str]) -> dict[Key, Stream]:
    """The streams of these devices, and all groups and the fleet."""
    query = select(DriftStream).where(DriftStream.model == model)
    rows = list(session.exec(query.where(col(DriftStream.kind) != "device")))
    names = sorted(devices)
    for start in range(0, len(names), AT_ONCE):
        some = col(DriftStream.name).in_(names[start : start + AT_ONCE])
        rows += session.exec(query.where(DriftStream.kind == "device", some))
    session.info[HELD] = rows  # or the session forgets them, and asks for each again when it is saved
    return {(row.kind, row.name): stream for row in rows if (stream := _read(row)) is not None}


def most_moved(session: Session, model: str, most: int) -> list[Stream]:
    """The devices with most evidence."""
    query = select(DriftStream).where(DriftStream.model == model, DriftStream.kind == "device")
    rows = session.exec(query.order_by(col(DriftStream.evidence).desc()).limit(most))
    return [stream for row in rows if (stream := _read(row)) is not None]


def named_by(session: Session, model: str, alarm: int) -> list[Stream]:
    """The streams that an open alarm names."""
    rows = session.exec(select(DriftStream).where(DriftStream.model == model, DriftStream.alarm == alarm))
    return [stream for row in rows if (stream := _read(row)) is not None]


def with_evidence(session: Session, model: str) -> list[Stream]:
    """The streams that an alarm names, or that have some evidence."""
    some = or_(col(DriftStream.alarm) != 0, col(DriftStream.evidence) > 0.0)
    rows = session.exec(select(DriftStream).where(DriftStream.model == model, some))
    return [stream for row in rows if (stream := _read(row)) is not None]


def save(session: Session, model: str, streams: Iterable[Stream], settings: Settings, now: float) -> None:
    """Write streams."""
    for stream in streams:
        row = session.get(DriftStream, (model, stream.kind, stream.name))
        if row is None:
            row = DriftStream(
                model=model, kind=stream.kind, name=stream.name, release=0, state="", began_at=0.0, last_at=0.0,
                updated_at=now,
            )  # fmt: skip
        row.release, row.state, row.windows = stream.release, stream.state, stream.windows
        row.began_at, row.last_at, row.updated_at = stream.began, stream.last, now
        row.evidence, row.alarm_at, row.alarm = stream.evidence, stream.limit(settings), stream.alarm
        row.distance, row.margin, row.since = stream.distance, stream.margin, stream.since
        row.body = encode(stream)
        session.add(row)
    session.flush()


def forget(session: Session, model: str, keys: Sequence[Key] | None = None) -> int:
    """Begin some streams anew, or all of a model; returns how many there were."""
    statement = delete(DriftStream).where(col(DriftStream.model) == model)
    if keys is not None:
        some = [(col(DriftStream.kind) == kind) & (col(DriftStream.name) == name) for kind, name in keys]
        if not some:
            return 0
        statement = statement.where(or_(*some))
    return int(session.connection().execute(statement).rowcount)


def forget_all_but(session: Session, model: str, releases: Collection[int]) -> int:
    """Forget groups, the fleet, and devices that run none of some releases; returns how many streams there are left."""
    ours, devices = col(DriftStream.model) == model, col(DriftStream.kind) == "device"
    stay = devices & col(DriftStream.release).in_(sorted(releases))
    session.connection().execute(delete(DriftStream).where(ours, ~stay))
    return session.exec(select(func.count()).select_from(DriftStream).where(ours)).one()


def open_slots_anew(session: Session, model: str) -> None:
    """Groups and the fleet gather devices over another time from now on: what is gathered is of the one before."""
    rows = select(DriftStream).where(DriftStream.model == model, col(DriftStream.kind) != "device")
    for row in session.exec(rows):
        stream = _read(row)
        if stream is not None:
            stream.slot, stream.open_sum, stream.open_devices = -1, None, 0
            row.body = encode(stream)
            session.add(row)
    session.flush()


def _read(row: DriftStream) -> Stream | None:
    try:
        return decode(row.body)
    except (msgspec.DecodeError, ValueError) as error:  # of another version: it begins anew
        log.warning("the drift stream %s %s of %s begins anew: %s", row.kind, row.name, row.model, error)
        return None

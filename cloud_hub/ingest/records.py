"""A record that was read and checked, into rows, in the caller's transaction. Each comes here once, in order."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, func, select

from cloud_hub.ingest.reading import Record
from cloud_hub.store import benchmarks, pairing
from cloud_hub.store.tables import Device, DeviceEvent, DeviceModel, MeasuredRow, PairEvidence, RolloutRow, WindowRow
from fleet.protocol.bounds import LARGEST
from fleet.protocol.errors import MalformedError
from fleet.protocol.messages import AgentReport, Envelope, ModelReport, PairCounts, Window

MODELS = 256  # per device; each is a line wherever the device is shown
MEASURED = 4096  # figures per device


def write(session: Session, device: Device, record: Record, now: float) -> str:
    """Write one record; returns its kind.

    Raises:
        MalformedError: the device reports more models or figures than one device can have.
    """
    envelope, body = record.envelope, record.body
    if isinstance(body, Window):
        _window(session, device, record, body)
    else:
        _event(session, device.id, record, now)
    if isinstance(body, ModelReport):
        _model(session, device.id, envelope, body.model, record.document)
    elif isinstance(body, AgentReport):
        device.info = record.document
    elif record.figures is not None:
        benchmarks.keep(session, device.id, record.figures, envelope.at)
        _at_most(session, MeasuredRow, device.id, MEASURED)
    session.flush()
    return envelope.kind


def _event(session: Session, device_id: str, record: Record, now: float) -> None:
    envelope = record.envelope
    session.add(
        DeviceEvent(
            device_id=device_id, spool=envelope.spool, seq=envelope.seq, at=envelope.at,
            received_at=now, kind=envelope.kind, body=record.document,
        )
    )  # fmt: skip


def _model(session: Session, device_id: str, envelope: Envelope, model: str, report: dict[str, Any]) -> None:
    row = session.get(DeviceModel, (device_id, model))
    new = row is None
    if row is None:
        row = DeviceModel(device_id=device_id, model=model, state=report["state"])
    for name in ModelReport.__struct_fields__:
        setattr(row, name, report[name])
    row.seq, row.at = envelope.seq, envelope.at
    session.add(row)
    session.flush()
    if new:
        _at_most(session, DeviceModel, device_id, MODELS)


def _at_most(session: Session, table: type[DeviceModel] | type[MeasuredRow], device_id: str, most: int) -> None:
    """Raise MalformedError, and with it undo the record, when the device has more than `most` rows."""
    session.flush()
    if session.exec(select(func.count()).where(table.device_id == device_id)).one() > most:
        raise MalformedError(f"more than {most} rows of {table.__tablename__} for one device", subject=device_id)


def _window(session: Session, device: Device, record: Record, window: Window) -> None:
    envelope, sketch, device_id = record.envelope, window.sketch, device.id
    session.add(
        WindowRow(
            device_id=device_id, spool=envelope.spool, seq=envelope.seq, model=window.model, release=window.release,
            started_at=window.started_at, ended_at=window.ended_at, body=record.document,
            sketch_id=sketch.sketch_id if sketch else "", sketch_count=sketch.count if sketch else 0,
            sketch=sketch.sums if sketch else b"",
        )
    )  # fmt: skip
    if window.pairs is not None and pairing.counts(session, device, window.pairs):
        place = (window.pairs.rollout, window.pairs.attempt, device_id)
        _add(session, place, _new_pairs(session, place, window, window.pairs))
    rollout = session.get(RolloutRow, window.rollout) if window.rollout else None
    if rollout is not None and window.attempt <= rollout.attempt and _serves(device, window, rollout):
        _add(session, (window.rollout, window.attempt, device_id), _served(window))


def _new_pairs(session: Session, place: tuple[str, int, str], window: Window, pairs: PairCounts) -> dict[str, int]:
    audited = min(window.counters.get("audited", 0), pairing.servable(window.started_at, window.ended_at))
    return pairing.count(session, session.get(PairEvidence, place), pairs, audited)


def _serves(device: Device, window: Window, rollout: RolloutRow) -> bool:
    """Whether the window is of what the rollout brings to the device's own channel."""
    brings = (rollout.channel, rollout.model, rollout.release)
    return brings == (device.channel, window.model, window.release)


def _served(window: Window) -> dict[str, int]:
    """What a window says about its release: of the requests that it took, how many it answered itself."""
    most = pairing.servable(window.started_at, window.ended_at)
    requests, failed, refused, newly = (
        min(window.counters.get(name, 0), most) for name in ("requests", "local_failed", "refused", "newly_refused")
    )
    return {"answered": max(0, requests - refused - failed), "local_failed": failed, "newly_refused": newly}


def _add(session: Session, key: tuple[str, int, str], counts: dict[str, int]) -> None:
    row = pairing.row_of(session, *key)
    for name, count in counts.items():
        setattr(row, name, min(getattr(row, name) + count, LARGEST))
    session.add(row)
    session.flush()

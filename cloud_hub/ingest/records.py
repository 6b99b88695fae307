"""One decoded record into rows, in the caller's transaction. Each record comes here once, in order."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlmodel import Session

from cloud_hub import measured
from cloud_hub.store.tables import Device, DeviceEvent, DeviceModel, PairEvidence, WindowRow
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import (
    AgentReport,
    Benchmark,
    CommandResult,
    Envelope,
    ModelReport,
    PairCounts,
    Window,
    decode_body,
)
from fleet.protocol.names import check_name

MALFORMED = "malformed"


def write(session: Session, device: Device, envelope: Envelope, now: float) -> str:
    """Write one record; returns its kind, `malformed` for a body that does not decode.

    Such a record is kept as an event and numbered off: it would never decode, and must not keep the
    ones behind it waiting.
    """
    try:
        body = decode_body(envelope)
        if isinstance(body, ModelReport | Window):
            check_name(body.model, "model")
        figures = _figures(body)
    except ProtocolError as error:
        refuse(session, envelope, now, str(error)[:500])
        return MALFORMED
    if isinstance(body, Window):
        _window(session, device.id, envelope, body)
    else:
        _event(session, envelope, now, envelope.kind, msgspec.to_builtins(body))
    if isinstance(body, ModelReport):
        _model(session, device.id, envelope, body)
    elif isinstance(body, AgentReport):
        device.info = msgspec.to_builtins(body)
    elif figures is not None:
        measured.keep(session, device.id, figures, envelope.at)
    session.flush()
    return envelope.kind


def _figures(body: Any) -> Benchmark | None:
    """The figures in a result, if it has any; raises MalformedError for ones that cannot be right."""
    if not isinstance(body, CommandResult) or not body.ok or body.kind != "benchmark":
        return None
    return measured.read(body.data)


def refuse(session: Session, envelope: Envelope, now: float, why: str) -> None:
    """Keep a record that cannot be taken as an event of kind `malformed`."""
    _event(session, envelope, now, MALFORMED, {"kind": envelope.kind, "error": why})


def _event(session: Session, envelope: Envelope, now: float, kind: str, body: dict[str, Any]) -> None:
    session.add(
        DeviceEvent(
            device_id=envelope.device, spool=envelope.spool, seq=envelope.seq, at=envelope.at,
            received_at=now, kind=kind, body=body,
        )
    )  # fmt: skip


def _model(session: Session, device_id: str, envelope: Envelope, report: ModelReport) -> None:
    row = session.get(DeviceModel, (device_id, report.model))
    if row is None:
        row = DeviceModel(device_id=device_id, model=report.model, state=report.state)
    for name in ModelReport.__struct_fields__:
        setattr(row, name, getattr(report, name))
    row.seq, row.at = envelope.seq, envelope.at
    session.add(row)
    session.flush()


def _window(session: Session, device_id: str, envelope: Envelope, window: Window) -> None:
    body = msgspec.to_builtins(msgspec.structs.replace(window, sketch=None))
    sketch = window.sketch
    session.add(
        WindowRow(
            device_id=device_id, spool=envelope.spool, seq=envelope.seq, model=window.model, release=window.release,
            started_at=window.started_at, ended_at=window.ended_at, body=body,
            sketch_id=sketch.sketch_id if sketch else "", sketch_count=sketch.count if sketch else 0,
            sketch=sketch.sums if sketch else b"",
        )
    )  # fmt: skip
    if window.pairs is not None:
        _pairs(session, device_id, window.pairs)


def _pairs(session: Session, device_id: str, pairs: PairCounts) -> None:
    row = session.get(PairEvidence, (pairs.rollout, pairs.attempt, device_id))
    if row is None:
        row = PairEvidence(rollout=pairs.rollout, attempt=pairs.attempt, device_id=device_id)
    row.both += pairs.both
    row.only_old += pairs.only_old
    row.only_new += pairs.only_new
    row.neither += pairs.neither
    session.add(row)
    session.flush()

"""Records that were read and checked, into rows, in the caller's transaction. Each comes here once, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, func, select

from cloud_hub.ingest.batch import Taken
from cloud_hub.ingest.evidence import write_evidence
from cloud_hub.store import benchmarks, bulk
from cloud_hub.store.tables import DeviceEvent, DeviceModel, MeasuredRow, WindowRow
from cloud_hub.store.types import document_text
from cloud_hub.store.windows import entering
from fleet.protocol.errors import MalformedError
from fleet.protocol.messages import AgentReport, ModelReport
from fleet.protocol.telemetry import Window

MODELS = 256  # per device; each is a line wherever the device is shown
MEASURED = 4096  # figures per device

_EVENT = ("device_id", "spool", "seq", "at", "received_at", "kind", "body")
_WINDOW = (
    "device_id",
    "spool",
    "seq",
    "model",
    "release",
    "started_at",
    "ended_at",
    "body",
    "sketch_id",
    "sketch_count",
    "sketch",
)
_MODEL = ("device_id", *ModelReport.__struct_fields__, "seq", "at")
_NO_SKETCH = ("", 0, b"")
Refused = tuple[Taken, MalformedError]


def write(session: Session, taken: Sequence[Taken], now: float) -> list[Refused]:
    """Write records; returns those for which their device has no room, of which nothing is written."""
    refused = _models(session, [one for one in taken if isinstance(one.record.body, ModelReport)])
    refused += _figures(session, [one for one in taken if one.record.figures is not None])
    out = {id(one) for one, _ in refused}
    windows = [one for one in taken if isinstance(one.record.body, Window)]
    others = [one for one in taken if not isinstance(one.record.body, Window) and id(one) not in out]
    for one in others:
        if isinstance(one.record.body, AgentReport):
            one.message.sender.info = one.record.document
    bulk.insert(session, DeviceEvent, _EVENT, [_event(one, now) for one in others])
    if windows:
        entering(session)
        bulk.insert(session, WindowRow, _WINDOW, [_window(one) for one in windows])
        write_evidence(session, [(one.message.sender, one.record.body) for one in windows])  # type: ignore[misc]
    return refused


def _event(one: Taken, now: float) -> bulk.Row:
    sent, document = one.record.envelope, one.record.document
    return one.message.sender.id, sent.spool, sent.seq, sent.at, now, sent.kind, document_text(document)


def _window(one: Taken) -> bulk.Row:
    sent, window, document = one.record.envelope, one.record.body, one.record.document
    assert isinstance(window, Window)
    sketch = window.sketch
    summary = (sketch.sketch_id, sketch.count, sketch.sums) if sketch is not None else _NO_SKETCH
    return (
        one.message.sender.id,
        sent.spool,
        sent.seq,
        window.model,
        window.release,
        window.started_at,
        window.ended_at,
        document_text(document),
        *summary,
    )


def _models(session: Session, taken: Sequence[Taken]) -> list[Refused]:
    """Keep the last report of each model on each device."""
    keys = [(one.message.sender.id, one.record.document["model"]) for one in taken]
    fits = _room(session, DeviceModel, keys, MODELS)
    newest = {}
    for key, one in zip(keys, taken, strict=True):
        if key in fits:
            document, sent = one.record.document, one.record.envelope
            fields = (document[name] for name in ModelReport.__struct_fields__)
            newest[key] = (key[0], *fields, sent.seq, sent.at)
    bulk.upsert(session, DeviceModel, _MODEL, list(newest.values()))
    return _refused(DeviceModel, keys, taken, fits, MODELS)


def _figures(session: Session, taken: Sequence[Taken]) -> list[Refused]:
    """Keep the last figures of each variant and runtime on each device."""
    rows = [benchmarks.row(one.message.sender.id, one.record.figures, one.record.envelope.at) for one in taken]  # type: ignore[arg-type]
    keys = [row[: benchmarks.KEY] for row in rows]
    fits = _room(session, MeasuredRow, keys, MEASURED)
    newest = {key: row for key, row in zip(keys, rows, strict=True) if key in fits}
    benchmarks.keep(session, list(newest.values()))
    return _refused(MeasuredRow, keys, taken, fits, MEASURED)


def _room(
    session: Session, table: type[DeviceModel] | type[MeasuredRow], keys: Sequence[bulk.Row], most: int
) -> set[bulk.Row]:
    """The primary keys, of which the first is the device's, that are there or for which the device has room."""
    if not keys:
        return set()
    columns = tuple(table.__table__.primary_key)  # type: ignore[union-attr]
    asked = bulk.listed(session, table, tuple(column.name for column in columns), set(keys))
    there = select(*columns).select_from(asked).outerjoin(table, bulk.same(table, asked))
    fits: set[bulk.Row] = {tuple(row) for row in session.connection().execute(there) if row[0] is not None}
    new = dict.fromkeys(key for key in keys if key not in fits)
    held: dict[str, int] = {}
    if new:
        device = columns[0]
        many = select(device, func.count()).where(device.in_({key[0] for key in new})).group_by(device)
        held = {name: count for name, count in session.connection().execute(many)}
    for key in new:
        held[key[0]] = held.get(key[0], 0) + 1
        if held[key[0]] <= most:
            fits.add(key)
    return fits


def _refused(
    table: type[DeviceModel] | type[MeasuredRow],
    keys: Sequence[bulk.Row],
    taken: Sequence[Taken],
    fits: set[Any],
    most: int,
) -> list[Refused]:
    over = [one for key, one in zip(keys, taken, strict=True) if key not in fits]
    subject = [one.message.sender.id for one in over]
    why = f"more than {most} rows of {table.__tablename__} for one device"
    return [(one, MalformedError(why, subject=device)) for one, device in zip(over, subject, strict=True)]

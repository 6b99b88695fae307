"""The samples of a model in the order in which to label them: reads those that `worth` ranks, within bounds.

Samples that were drawn at random are no candidates: from their labels the hub computes the accuracy of answers
(`cloud_hub.drift.truth`), and it would see the hardest of them only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement
from sqlmodel import Session, col, func, select

from cloud_hub.context import Hub
from cloud_hub.errors import NotFoundError
from cloud_hub.samples import embedding, parquet, worth
from cloud_hub.store.tables import Alarm, SampleRow
from cloud_hub.trust.rows import get_model
from fleet.api.samples import RankedSample, RankedSamples, SampleInfo
from fleet.protocol.errors import MalformedError

CANDIDATES, LABELLED = 2000, 1000  # samples that are looked at
RANDOM = "random"  # the reason of samples that were drawn at random
READ_BYTES = 512 << 20  # of partitions that one ranking reads
AT_ONCE, AT_ONCE_BYTES = 64, 32 << 20  # partitions that are open together


@dataclass(frozen=True)
class ReadSample:
    """A sample that was read: its row, its embedding, and what its exact repeats share."""

    row: SampleRow
    point: embedding.Floats
    key: bytes


def ranked(hub: Hub, model: str, *, count: int, since_alarm: bool) -> RankedSamples:
    """The samples of a model that are worth a label most, of the newest `CANDIDATES` without one.

    Those are each device's newest in turn, so that no device crowds the others out.

    Args:
        hub: the hub.
        model: its name.
        count: at most this many.
        since_alarm: only samples from after the shift that the model's newest alarm names that is not closed.

    Raises:
        NotFoundError: no such model; no such alarm.
    """
    with hub.reading() as session:
        get_model(session, model)
        since = _shift(session, model) if since_alarm else None
        there = [col(SampleRow.model) == model, col(SampleRow.deleted_at).is_(None)]
        open_ = [*there, col(SampleRow.label).is_(None)]
        if since is not None:
            open_ += [col(SampleRow.at) >= since, col(SampleRow.received_at) >= since]  # one of the clocks may be wrong
        rows = _newest(session, [*open_, col(SampleRow.reason) != RANDOM], CANDIDATES)
        random = session.exec(select(func.count()).where(*open_, col(SampleRow.reason) == RANDOM)).one()
        known = _newest(session, [*there, col(SampleRow.label).is_not(None)], LABELLED)
    seen = _alike_inputs(_read(hub, [*rows, *known]))
    if not seen:
        return RankedSamples(items=[], random=random, unread=len(rows), since=since)
    found = worth.rank(_known(seen), count)
    looked = sum(one.row.label is None for one in seen)
    return RankedSamples(
        items=[_shown(seen[pick.row].row, pick) for pick in found.picks],
        candidates=looked,
        repeats=found.repeats,
        random=random,
        unread=len(rows) - looked,
        since=since,
    )


def _shift(session: Session, model: str) -> float:
    query = select(Alarm).where(Alarm.model == model, Alarm.status != "closed")
    alarm = session.exec(query.order_by(col(Alarm.at).desc(), col(Alarm.id).desc()).limit(1)).first()
    if alarm is None:
        raise NotFoundError(f"no open alarm of {model!r}", subject=model, hint="see: fleet drift status --model NAME")
    return float(alarm.detail.get("since") or alarm.at)


def _newest(session: Session, wanted: Sequence[ColumnElement[bool]], most: int) -> list[SampleRow]:
    """Each device's newest sample, then each one's second, and so on, `most` in all."""
    turn = func.row_number().over(
        partition_by=col(SampleRow.device_id), order_by=(col(SampleRow.received_at).desc(), col(SampleRow.id))
    )
    turns = select(col(SampleRow.id).label("id"), turn.label("turn")).where(*wanted).subquery()
    query = select(SampleRow).join(turns, col(SampleRow.id) == turns.c.id)
    order = (turns.c.turn, col(SampleRow.received_at).desc(), col(SampleRow.id))
    return list(session.exec(query.order_by(*order).limit(most)))


def _read(hub: Hub, rows: Sequence[SampleRow]) -> list[ReadSample]:
    """The samples whose data is there, can be read and is within `READ_BYTES`, in the order of the rows."""
    wanted = {row.id: row for row in rows}
    seen: dict[str, ReadSample] = {}
    for parts in _batches(hub, list(dict.fromkeys(row.path for row in rows))):
        for key, arrays in parquet.arrays_of(parts).items():
            if key not in wanted:
                continue
            try:
                point = embedding.embed(arrays.inputs)
            except MalformedError:
                continue  # counted as unread
            digest = hashlib.sha256(repr([(a.name, a.datatype, a.shape) for a in arrays.inputs]).encode())
            for array in arrays.inputs:
                digest.update(array.data)
            seen[key] = ReadSample(wanted[key], point, digest.digest())
    return [seen[row.id] for row in rows if row.id in seen]


def _batches(hub: Hub, paths: Sequence[str]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    total = size = 0
    for path in paths:
        if total >= READ_BYTES:
            break
        try:
            data = hub.objects.get(path).data
        except NotFoundError:
            continue  # deleted meanwhile: its samples count as unread
        batch.append(data)
        total, size = total + len(data), size + len(data)
        if len(batch) == AT_ONCE or size >= AT_ONCE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _alike_inputs(seen: Sequence[ReadSample]) -> list[ReadSample]:
    """Those with as many inputs as most have: releases of old hubs may have others."""
    usual = Counter(len(one.point) for one in seen).most_common(1)
    return [one for one in seen if usual and len(one.point) == usual[0][0]]


def _known(seen: Sequence[ReadSample]) -> worth.Known:
    places: dict[bytes, int] = {}
    rows = [one.row for one in seen]
    return worth.Known(
        points=embedding.standardise(np.stack([one.point for one in seen])),
        confidence=np.array([row.confidence for row in rows], np.float64),
        disagree=np.array([_disagree(row) for row in rows], bool),
        outlying=np.array([row.reason == "outlying" for row in rows], bool),
        labelled=np.array([row.label is not None for row in rows], bool),
        exact=np.array([places.setdefault(one.key, len(places)) for one in seen], np.int64),
    )


def _disagree(row: SampleRow) -> bool:
    """By the device, which compares as the task does; of classes also by what both said."""
    return row.reason == "disagreeing" or (row.cloud_prediction is not None and row.cloud_prediction != row.prediction)


def _shown(row: SampleRow, pick: worth.Pick) -> RankedSample:
    info: dict[str, Any] = SampleInfo.model_validate(vars(row)).model_dump()
    return RankedSample(**info, worth=pick.worth, wrong=pick.wrong, unlike=pick.unlike)

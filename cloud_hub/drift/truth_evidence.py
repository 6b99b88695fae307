"""The evidence on a release's answers: windows with audits, and labels of samples drawn at random."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlmodel import Session, col, select, tuple_

from cloud_hub.context import Hub
from cloud_hub.drift.records import revoked_devices
from cloud_hub.samples import parquet, store
from cloud_hub.samples.answers import device_answer
from cloud_hub.store.tables import MeaningMonitor, SampleRow, WindowRow
from fleet.protocol.errors import MalformedError
from fleet.tasks import Task

log = logging.getLogger(__name__)

BATCH = 500  # windows, and labels, at a time
BATCHES = 20  # of windows, per step and model
OTHERS = 64  # tracks of groups


class Judged(Struct, frozen=True, kw_only=True):
    """A label, and how right the device's answer was by it: in [0, 1], or None where nothing says it."""

    at: float
    sample: str
    device_id: str
    share: float | None


def uncounted_windows(session: Session, monitor: MeaningMonitor, upto: int, most: int) -> Sequence[Any]:
    """Return the release's windows that are not counted yet: the columns that the count needs, without sketches."""
    rows = (
        select(WindowRow.id, WindowRow.device_id, WindowRow.ended_at, WindowRow.body)
        .where(WindowRow.model == monitor.model, WindowRow.release == monitor.release)
        .where(col(WindowRow.id) > monitor.last_window, col(WindowRow.id) <= upto)
        .where(col(WindowRow.device_id).not_in(revoked_devices()))
        .order_by(col(WindowRow.id))
        .limit(most)
    )
    return session.exec(rows).all()


def uncounted_labels(session: Session, monitor: MeaningMonitor) -> list[SampleRow]:
    """The release's labelled samples, drawn at random, that are not counted yet."""
    place = tuple_(col(SampleRow.labelled_at), col(SampleRow.id))
    rows = (
        select(SampleRow)
        .where(SampleRow.model == monitor.model, SampleRow.release == monitor.release)
        .where(SampleRow.reason == "random", col(SampleRow.deleted_at).is_(None))
        .where(col(SampleRow.label).is_not(None), place > (monitor.last_label_at, monitor.last_label))
        .order_by(col(SampleRow.labelled_at), col(SampleRow.id))
        .limit(BATCH)
    )
    return list(session.exec(rows))


def right_by(hub: Hub, rows: list[SampleRow], task: Task[Any]) -> list[float | None]:
    """Return how right the device's own answer to each sample is, by its label; None where nothing tells it."""
    if task.name == "classification":  # the answer stands in the row
        return [task.right(row.prediction, row.label) for row in rows]
    found = store.arrays_of(hub, rows)
    return [_right_in(found.get(row.id), row, task) for row in rows]


def _right_in(arrays: parquet.Arrays | None, row: SampleRow, task: Task[Any]) -> float | None:
    if arrays is None:
        return None
    try:
        answer = device_answer(task, arrays)
        return None if answer is None else task.right(answer, task.label(row.label))
    except MalformedError as error:
        log.warning("sample %s of %s cannot be compared with its label: %s", row.id, row.model, error)
        return None

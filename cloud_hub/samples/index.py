"""Samples and snapshots as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.samples import store
from cloud_hub.store.tables import SampleRow, Snapshot
from fleet.api.samples import SampleArray, SampleDetail, SampleInfo, SamplePage, SnapshotInfo
from fleet.protocol.messages import Array
from fleet.protocol.tensors import from_array, to_json

_HIDDEN = {"path", "deleted_at"}


def list_samples(
    hub: Hub, *, model: str, reason: str, labelled: bool | None, after: str, limit: int, device: str = ""
) -> SamplePage:
    """At most `limit` samples in the order of their ids, from those after the id `after` on.

    Args:
        hub: the hub.
        model: only of this model; empty for any.
        reason: only those recorded for this reason; empty for any.
        labelled: only those with (without) a label; None for any.
        after: an id; empty for the first.
        limit: how many.
        device: only those from this device; empty for any.
    """
    query = select(SampleRow).where(col(SampleRow.deleted_at).is_(None), col(SampleRow.id) > after)
    if model:
        query = query.where(SampleRow.model == model)
    if device:
        query = query.where(SampleRow.device_id == device)
    if reason:
        query = query.where(SampleRow.reason == reason)
    if labelled is not None:
        query = query.where(col(SampleRow.label).is_not(None) if labelled else col(SampleRow.label).is_(None))
    with hub.reading() as session:
        rows = session.exec(query.order_by(col(SampleRow.id)).limit(limit + 1)).all()
    found = [SampleInfo.model_validate(vars(row)) for row in rows[:limit]]
    return SamplePage(items=found, next=found[-1].id if len(rows) > limit else None)


def show_sample(hub: Hub, sample: str) -> SampleDetail:
    """One sample with its arrays; NotFoundError when there is none, or its data is gone."""
    row = store.get(hub, sample)
    found = store.arrays(hub, row)
    return SampleDetail(**row.model_dump(exclude=_HIDDEN), inputs=_arrays(found.inputs), outputs=_arrays(found.outputs))


def list_snapshots(hub: Hub) -> list[SnapshotInfo]:
    """Every snapshot, newest first."""
    rows = select(Snapshot).order_by(col(Snapshot.created_at).desc())
    with hub.reading() as session:
        return [SnapshotInfo.model_validate(row) for row in session.exec(rows)]


def _arrays(arrays: Sequence[Array]) -> list[SampleArray]:
    return [
        SampleArray(name=array.name, datatype=array.datatype, shape=list(array.shape), data=to_json(from_array(array)))
        for array in arrays
    ]

"""Snapshots: what was collected for a model, frozen under the hash of its content."""

from __future__ import annotations

import numpy as np

from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.samples import parquet, store
from cloud_hub.samples.dataset import Dataset, decode_dataset, encode_dataset
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Snapshot
from fleet.protocol.tensors import from_array


def create(hub: Hub, model: str, *, actor: str) -> Snapshot:
    """Freeze a model's samples and labels; the same content gives the same snapshot.

    Raises InvalidError when there are no samples, or their inputs have different shapes.
    """
    rows = store.of_model(hub, model)
    if not rows:
        raise InvalidError(f"no samples of {model!r}", subject=model, hint="turn sampling on: fleet channel set …")
    found: dict[str, parquet.Arrays] = {}
    for path in sorted({row.path for row in rows}):
        found |= parquet.arrays_of(hub.objects.get(path).data)
    kept = [row for row in rows if row.id in found]
    inputs = [np.asarray(from_array(found[row.id].inputs[0]), np.float32) for row in kept]
    if len({array.shape for array in inputs}) != 1:
        raise InvalidError(f"samples of {model!r} have inputs of different shapes", subject=model)
    dataset = Dataset(
        x=_stack(inputs),
        label=np.asarray([-1 if row.label is None else row.label for row in kept], np.int64),
        ids=np.asarray([row.id for row in kept]),
    )
    return save(hub, model, dataset, actor=actor)


def save(hub: Hub, model: str, dataset: Dataset, *, actor: str) -> Snapshot:
    """Store a dataset under its hash."""
    data, name = encode_dataset(dataset), dataset.id
    path = f"snapshots/{name}.npz"
    hub.objects.put_new(path, data)
    with hub.session() as session:
        lock_name(session, f"snapshot:{name}")  # two that freeze the same content get the same row
        row = session.get(Snapshot, name)
        if row is None:
            row = Snapshot(
                id=name, model=model, path=path, samples=len(dataset.x), labelled=dataset.labelled,
                size_bytes=len(data), created_at=hub.clock(), created_by=actor,
            )  # fmt: skip
            session.add(row)
            hub.audit(session, actor, "snapshot.create", name, {"model": model, "samples": row.samples})
    return row


def load(hub: Hub, snapshot: str) -> Dataset:
    """A snapshot's content, checked against its hash."""
    with hub.reading() as session:
        row = session.get(Snapshot, snapshot)
    if row is None:
        raise NotFoundError(f"no snapshot {snapshot}", subject=snapshot, hint="see: fleet snapshot list")
    dataset = decode_dataset(hub.objects.get(row.path).data, subject=snapshot)
    if dataset.id != snapshot:
        raise InvalidError(f"snapshot {snapshot} does not have the content it is named after", subject=snapshot)
    return dataset


def _stack(inputs: list[np.ndarray]) -> np.ndarray:
    """Samples as (n, …): a leading batch dimension of one is dropped."""
    return np.concatenate(inputs) if inputs[0].ndim > 1 and inputs[0].shape[0] == 1 else np.stack(inputs)

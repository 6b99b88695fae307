"""Snapshots: what was collected for a model, frozen under the hash of its content.

A snapshot holds the samples that have the model's own inputs: names, datatypes, shapes, and no NaN or infinity unless
the model means them. A sample of a release with other inputs (hubs of 0.1 published such) stays out and is counted; it
never keeps the others from being used.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.samples import parquet, store
from cloud_hub.samples.dataset import Dataset, decode_dataset, encode_dataset, make_dataset
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Job, Release, SampleRow, Snapshot
from cloud_hub.trust.rows import get_model, interface_release, label_task
from fleet.protocol.errors import MalformedError
from fleet.protocol.finite import is_finite
from fleet.protocol.interface import tensors
from fleet.protocol.manifest import Tensor, decode_manifest
from fleet.protocol.messages import Array
from fleet.protocol.tensors import from_array

log = logging.getLogger(__name__)


def create(hub: Hub, model: str, *, actor: str) -> Snapshot:
    """Freeze a model's samples and labels; the same content gives the same snapshot.

    Raises:
        InvalidError: there are no samples, or none that has the model's inputs.
    """
    rows = store.of_model(hub, model)
    if not rows:
        raise InvalidError(f"no samples of {model!r}", subject=model, hint="turn sampling on: fleet channel set …")
    found = parquet.arrays_of(hub.objects.get(path).data for path in sorted({row.path for row in rows}))
    rows = [row for row in rows if row.id in found]
    wanted = _inputs(hub, model) or _usual([found[row.id].inputs for row in rows])
    fitting = [row for row in rows if _fits(found[row.id].inputs, wanted)]
    if not fitting:
        seen = tensors(_described(found[rows[0].id].inputs)) if rows else "none"
        raise InvalidError(
            f"no sample of {model!r} has its inputs {tensors(wanted)}; they have {seen}",
            subject=model,
            hint="collect samples of a release with the model's interface: fleet model show NAME",
        )
    shapes = {row.id: tuple(sorted((a.name, a.shape) for a in found[row.id].inputs)) for row in fitting}
    usual = Counter(shapes.values()).most_common(1)[0][0]  # where a size may vary, what most samples have
    kept = [row for row in fitting if shapes[row.id] == usual]
    if len(kept) < len(rows):
        log.warning(
            "%d of %d samples of %s stay out: other inputs, or NaN in them", len(rows) - len(kept), len(rows), model
        )
    labels = _labels(hub, model, kept)
    dataset = _stacked(kept, {row.id: found[row.id].inputs for row in kept}, wanted, labels)
    return save(hub, model, dataset, actor=actor, left_out=len(rows) - len(kept))


def _inputs(hub: Hub, model: str) -> tuple[Tensor, ...]:
    """The inputs of the model's interface; empty before its first release."""
    with hub.reading() as session:
        get_model(session, model)
        current = interface_release(session, model)
    return () if current is None else current.manifest.inputs


def _usual(samples: Sequence[Sequence[Array]]) -> tuple[Tensor, ...]:
    """Return the inputs of most samples; a leading one is the batch."""
    found = Counter(_described(inputs) for inputs in samples).most_common(1)
    return tuple(
        msgspec.structs.replace(tensor, shape=(-1, *tensor.shape[1:]))
        if len(tensor.shape) > 1 and tensor.shape[0] == 1
        else tensor
        for tensor in (found[0][0] if found else ())
    )


def _described(inputs: Sequence[Array]) -> tuple[Tensor, ...]:
    ordered = sorted(inputs, key=lambda array: array.name)
    return tuple(Tensor(name=array.name, datatype=array.datatype, shape=array.shape) for array in ordered)


def _fits(inputs: Sequence[Array], wanted: Sequence[Tensor]) -> bool:
    """Tell whether a sample holds one row of each of the model's inputs."""
    have = {array.name: array for array in inputs}
    return len(have) == len(inputs) == len(wanted) and all(
        tensor.name in have
        and have[tensor.name].datatype == tensor.datatype
        and _same_shape(have[tensor.name].shape, tensor.shape)
        and (not tensor.finite or is_finite(from_array(have[tensor.name])))  # one NaN makes all weights NaN
        for tensor in wanted
    )


def _same_shape(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if wanted[:1] == (-1,):  # one row
        wanted = (1, *wanted[1:])
    return len(shape) == len(wanted) and all(b in (-1, a) for a, b in zip(shape, wanted, strict=True))


def _labels(hub: Hub, model: str, rows: Sequence[SampleRow]) -> tuple[Any, ...]:
    """The labels of the rows; what is no label of the model's task (hubs of 0.1 took any class) is left out."""
    with hub.reading() as session:
        task = label_task(session, model)
    labels: list[Any] = []
    for row in rows:
        label = row.label
        if task is not None and label is not None:
            try:
                label = task.label(label)
            except MalformedError as error:
                log.warning("the label of sample %s stays out of the snapshot: %s", row.id, error)
                label = None
        labels.append(label)
    return tuple(labels)


def _stacked(
    rows: Sequence[SampleRow],
    found: Mapping[str, Sequence[Array]],
    wanted: Sequence[Tensor],
    labels: tuple[Any, ...],
) -> Dataset:
    """Samples of one shape as arrays (n, …), with their labels."""
    inputs = {}
    for tensor in wanted:
        arrays = [from_array(next(a for a in found[row.id] if a.name == tensor.name)) for row in rows]
        inputs[tensor.name] = np.concatenate(arrays) if tensor.shape[:1] == (-1,) else np.stack(arrays)
    return make_dataset(inputs, labels, np.asarray([row.id for row in rows]))


def save(hub: Hub, model: str, dataset: Dataset, *, actor: str, left_out: int = 0) -> Snapshot:
    """Store a dataset under its hash; `left_out` samples had other inputs."""
    data, name = encode_dataset(dataset), dataset.id
    path = f"snapshots/{name}.npz"
    hub.objects.put_new(path, data)
    with hub.session() as session:
        lock_name(session, f"snapshot:{name}")  # two that freeze the same content get the same row
        row = session.get(Snapshot, name)
        if row is None:
            row = Snapshot(
                id=name,
                model=model,
                path=path,
                samples=len(dataset.ids),
                labelled=dataset.labelled,
                size_bytes=len(data),
                created_at=hub.clock(),
                created_by=actor,
            )
            session.add(row)
            detail = {"model": model, "samples": row.samples, "left_out": left_out}
            hub.audit(session, actor, "snapshot.create", name, detail)
    return row


def delete(hub: Hub, snapshot: str, *, actor: str) -> Snapshot:
    """Delete a snapshot that no release was made from and no job is to be.

    Raises:
        NotFoundError: no such snapshot. ConflictError: a release or job names it.
    """
    with hub.session() as session:
        row = session.get(Snapshot, snapshot, with_for_update=True)
        if row is None:
            raise _unknown(snapshot)
        made = select(Release).where(Release.model == row.model, col(Release.status) != "reserved")
        releases = [r.number for r in session.exec(made) if decode_manifest(r.manifest).lineage.snapshot == snapshot]
        jobs = select(Job).where(Job.model == row.model, col(Job.ended_at).is_(None))
        users = [f"release {number}" for number in releases]
        asked = [(job, (job.payload.get("snapshot"), job.result.get("snapshot"))) for job in session.exec(jobs)]
        users += [f"job {job.id}" for job, names in asked if snapshot in names]
        if users:
            raise ConflictError(
                f"snapshot {snapshot[:12]} is what {', '.join(users)} of {row.model!r} comes from",
                subject=snapshot,
                hint="first: fleet release delete, or fleet job cancel",
            )
        session.delete(row)
        hub.audit(session, actor, "snapshot.delete", snapshot, {"model": row.model, "samples": row.samples})
    hub.objects.delete(row.path)
    return row


def _unknown(snapshot: str) -> NotFoundError:
    return NotFoundError(f"no snapshot {snapshot}", subject=snapshot, hint="see: fleet snapshot list")


def load(hub: Hub, snapshot: str) -> Dataset:
    """Load a snapshot's content, checked against its hash.

    Raises:
        NotFoundError: there is no such snapshot.
        InvalidError: its file has changed.
    """
    with hub.reading() as session:
        row = session.get(Snapshot, snapshot)
    if row is None:
        raise _unknown(snapshot)
    dataset = decode_dataset(hub.objects.get(row.path).data, subject=snapshot)
    if dataset.id != snapshot:
        raise InvalidError(f"snapshot {snapshot} does not have the content it is named after", subject=snapshot)
    return dataset

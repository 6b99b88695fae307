"""HTTP: samples in from devices, out to people; labels; snapshots."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from msgspec import Struct
from sqlmodel import col, select
from starlette.concurrency import run_in_threadpool

from cloud_hub.errors import InvalidError
from cloud_hub.routes.deps import DeviceCaller, HubDep, OperatorUser, Viewer, decode, page, read_body
from cloud_hub.samples import snapshots, store
from cloud_hub.store.tables import SampleRow, Snapshot
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.messages import VERSION, Array, SampleBatch, SampleReceipt
from fleet.protocol.tensors import from_array, to_json

router = APIRouter(tags=["samples"])
MAX_PAGE = 1000


class Label(Struct, frozen=True, forbid_unknown_fields=True):
    """One sample's true class."""

    id: str
    label: int


class Labels(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who says what; `by` is a person or a tool."""

    labels: tuple[Label, ...]
    by: str = "operator"


class NewSnapshot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of which model."""

    model: str


@router.post("/device/samples")
async def upload(request: Request, hub: HubDep, device: DeviceCaller) -> Response:
    """Take a device's samples; repeating the request changes nothing."""
    limit = hub.config.limits.samples_body
    batch = decode_msgpack(await read_body(request, limit), SampleBatch, limit=limit, subject="samples")
    if batch.v != VERSION:
        raise InvalidError(f"samples of version {batch.v} are unknown here", subject="samples")
    committed = await run_in_threadpool(store.commit, hub, device, batch.samples)
    return Response(msgspec.json.encode(SampleReceipt(committed=committed)), media_type="application/json")


@router.get("/api/v1/samples")
def list_samples(
    hub: HubDep,
    caller: Viewer,
    model: str = "",
    reason: str = "",
    labelled: bool | None = None,
    limit: int = 100,
    after: str = "",
) -> dict[str, Any]:
    """Samples in the order of their ids."""
    size = max(1, min(limit, MAX_PAGE))
    query = select(SampleRow).where(col(SampleRow.deleted_at).is_(None), col(SampleRow.id) > after)
    if model:
        query = query.where(SampleRow.model == model)
    if reason:
        query = query.where(SampleRow.reason == reason)
    if labelled is not None:
        query = query.where(col(SampleRow.label).is_not(None) if labelled else col(SampleRow.label).is_(None))
    with hub.reading() as session:
        rows = session.exec(query.order_by(col(SampleRow.id)).limit(size + 1)).all()
    return page([_show(row) for row in rows[:size]], rows[size - 1].id if len(rows) > size else None)


@router.get("/api/v1/samples/export")
def export(model: str, hub: HubDep, caller: Viewer) -> Response:
    """Every sample of a model as one Parquet file."""
    return Response(store.export(hub, model), media_type="application/vnd.apache.parquet")


@router.post("/api/v1/samples/labels")
async def label(request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Write down true classes."""
    wanted = decode(await request.body(), Labels)
    labels = {item.id: item.label for item in wanted.labels}
    count = await run_in_threadpool(store.label, hub, labels, by=wanted.by, actor=caller.actor)
    return {"labelled": count, "by": wanted.by}


@router.get("/api/v1/samples/{sample}")
def show(sample: str, hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """One sample with its arrays."""
    row = store.get(hub, sample)
    found = store.arrays(hub, row)
    return {**_show(row), "inputs": [_array(a) for a in found.inputs], "outputs": [_array(a) for a in found.outputs]}


@router.delete("/api/v1/samples/{sample}")
def delete(sample: str, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Remove a sample's data for good."""
    store.delete(hub, [store.get(hub, sample)], actor=caller.actor)
    return {"id": sample, "deleted": True}


@router.get("/api/v1/snapshots")
def list_snapshots(hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """Every snapshot, newest first."""
    with hub.reading() as session:
        rows = session.exec(select(Snapshot).order_by(col(Snapshot.created_at).desc())).all()
    return page([row.model_dump() for row in rows])


@router.post("/api/v1/snapshots", status_code=201)
async def create_snapshot(request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Freeze a model's samples and labels."""
    wanted = decode(await request.body(), NewSnapshot)
    row = await run_in_threadpool(snapshots.create, hub, wanted.model, actor=caller.actor)
    return row.model_dump()


def _show(row: SampleRow) -> dict[str, Any]:
    return row.model_dump(exclude={"path", "deleted_at"})


def _array(array: Array) -> dict[str, Any]:
    return {"name": array.name, "datatype": array.datatype, "shape": array.shape, "data": to_json(from_array(array))}

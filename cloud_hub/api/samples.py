"""HTTP: samples in from devices, out to people; labels; snapshots."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from cloud_hub.api.access import DeviceCaller, HubDep, OperatorUser, Viewer
from cloud_hub.api.bodies import JsonBody, read_upload
from cloud_hub.api.openapi import errors, gives, takes
from cloud_hub.api.params import KeyPath, KeyQuery
from cloud_hub.errors import NotFoundError
from cloud_hub.samples import index, intake, labelling, pictures, ranking, snapshots, store
from fleet.api.labelling import LabelTasks, WantedTasks
from fleet.api.samples import (
    DeletedSample,
    Labels,
    NewSnapshot,
    RankedSamples,
    SampleDetail,
    SamplePage,
    SnapshotInfo,
    SnapshotPage,
    WrittenLabels,
)
from fleet.api.types import KEY_LIMIT, NO_NUL, Int64
from fleet.protocol.messages import SampleBatch, SampleReceipt

router = APIRouter(tags=["samples"])
MAX_PAGE = 1000
PNG = "image/png"
PARQUET = "application/vnd.apache.parquet"


@router.post(
    "/device/samples",
    responses=gives(SampleReceipt) | errors(409, 504),
    openapi_extra=takes(SampleBatch, media_type="application/msgpack"),
)
async def upload(request: Request, hub: HubDep, device: DeviceCaller) -> Response:
    """Take a device's samples (MessagePack of a `SampleBatch`); repeating the request changes nothing.

    A sample that cannot be taken is set aside, and answered as taken.
    """
    limit = hub.config.limits.samples_body
    committed = await run_in_threadpool(intake.take, hub, device, await read_upload(request, limit), limit)
    return Response(msgspec.json.encode(SampleReceipt(committed=committed)), media_type="application/json")


@router.get("/api/v1/samples")
def list_samples(
    hub: HubDep,
    caller: Viewer,
    model: KeyQuery = "",
    reason: KeyQuery = "",
    labelled: bool | None = None,
    limit: Annotated[Int64, Query()] = 100,
    after: KeyQuery = "",
    device: KeyQuery = "",
) -> SamplePage:
    """Samples in the order of their ids."""
    size = max(1, min(limit, MAX_PAGE))
    return index.list_samples(
        hub, model=model, reason=reason, labelled=labelled, after=after, limit=size, device=device
    )


@router.get("/api/v1/samples/export", response_class=Response, responses=gives(media_type=PARQUET) | errors(404))
def export(
    model: Annotated[str, Query(max_length=KEY_LIMIT, pattern=NO_NUL)],
    hub: HubDep,
    caller: Viewer,
    device: KeyQuery = "",
) -> Response:
    """Every sample of a model, or those from one device, as one Parquet file."""
    return Response(store.export(hub, model, device), media_type=PARQUET)


@router.get("/api/v1/samples/ranked", responses=errors(404))
def ranked(
    model: Annotated[str, Query(max_length=KEY_LIMIT, pattern=NO_NUL)],
    hub: HubDep,
    caller: Viewer,
    count: Annotated[Int64, Query()] = 50,
    since_alarm: bool = False,
) -> RankedSamples:
    """The samples of a model that are worth a label most, near repeats left out."""
    return ranking.ranked(hub, model, count=max(1, min(count, MAX_PAGE)), since_alarm=since_alarm)


@router.post("/api/v1/samples/labels", responses=errors(404))
def label(hub: HubDep, caller: OperatorUser, wanted: Annotated[Labels, JsonBody(Labels)]) -> WrittenLabels:
    """Write down true classes."""
    labels = {item.id: item.label for item in wanted.labels}
    count = store.label(hub, labels, by=wanted.by, actor=caller.actor)
    return WrittenLabels(labelled=count, by=wanted.by)


@router.post("/api/v1/samples/tasks", responses=errors(404))
def tasks(hub: HubDep, caller: Viewer, wanted: Annotated[WantedTasks, JsonBody(WantedTasks)]) -> LabelTasks:
    """Samples as tasks for people who label elsewhere, many at a time; changes nothing."""
    return labelling.tasks_for(hub, wanted)


@router.get("/api/v1/samples/{sample}", responses=errors(404))
def show(sample: KeyPath, hub: HubDep, caller: Viewer) -> SampleDetail:
    """One sample with its arrays."""
    return index.show_sample(hub, sample)


@router.get("/api/v1/samples/{sample}/picture", response_class=Response, responses=gives(media_type=PNG) | errors(404))
def picture(sample: KeyPath, hub: HubDep, caller: Viewer) -> Response:
    """A sample's first image as a PNG of at most 256 pixels a side; 404 where no input is one."""
    found = pictures.picture_of(store.arrays(hub, store.get(hub, sample)).inputs)
    if found is None:
        raise NotFoundError(f"no input of sample {sample} is an image", subject=sample)
    return Response(found, media_type=PNG)


@router.delete("/api/v1/samples/{sample}", responses=errors(404, 409))
def delete(sample: KeyPath, hub: HubDep, caller: OperatorUser) -> DeletedSample:
    """Remove a sample's data for good."""
    store.delete(hub, [store.get(hub, sample)], actor=caller.actor)
    return DeletedSample(id=sample)


@router.get("/api/v1/snapshots")
def list_snapshots(hub: HubDep, caller: Viewer) -> SnapshotPage:
    """Every snapshot, newest first."""
    return SnapshotPage(items=index.list_snapshots(hub))


@router.post("/api/v1/snapshots", status_code=201, responses=errors(404))
def create_snapshot(
    hub: HubDep, caller: OperatorUser, wanted: Annotated[NewSnapshot, JsonBody(NewSnapshot)]
) -> SnapshotInfo:
    """Freeze a model's samples and labels."""
    return SnapshotInfo.model_validate(snapshots.create(hub, wanted.model, actor=caller.actor))


@router.delete("/api/v1/snapshots/{snapshot}", responses=errors(404, 409))
def delete_snapshot(snapshot: KeyPath, hub: HubDep, caller: OperatorUser) -> SnapshotInfo:
    """Delete a snapshot that no release and no job names."""
    return SnapshotInfo.model_validate(snapshots.delete(hub, snapshot, actor=caller.actor))

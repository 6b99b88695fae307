"""`/v2/models/{model}/infer_async`: a request now, its answer later, from whatever instance.

The body is that of `/infer`, and so is the answer, once it is there. What could be refused at once is.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from cloud_hub.api.access import HubDep, ModelCaller
from cloud_hub.api.errors import error_response
from cloud_hub.api.openapi import errors, gives, takes
from cloud_hub.api.params import KeyPath
from cloud_hub.inference import async_queue
from cloud_hub.inference.endpoint import MARKER
from cloud_hub.inference.routes import InferenceDep, taken_in
from cloud_hub.store.tables import AsyncRequest
from fleet.api.inference import AsyncInference
from fleet.api.types import Key
from fleet.protocol import oip
from fleet.protocol.asking import inputs_of
from fleet.serving import HotRequest as InferRequest

router = APIRouter(prefix="/v2/models/{model}", tags=["inference"])

KEPT = (MARKER, b"content-encoding")  # headers that say how a body is read
POLL_S = 1  # Retry-After while there is no answer

_SUBMIT: dict[str, Any] = {
    "status_code": 202,
    "responses": errors(404, 413, 422, 429, 503, 504),
    "openapi_extra": takes(oip.OipRequest, tensors=True),
}


async def get_request(model: KeyPath, request_id: KeyPath, hub: HubDep, caller: ModelCaller) -> AsyncRequest:
    """The caller's request of this id."""
    return await asyncio.to_thread(async_queue.find, hub, caller.actor, model, request_id)


Found = Annotated[AsyncRequest, Depends(get_request)]


@router.post("/infer_async", **_SUBMIT)
@router.post("/versions/{version}/infer_async", **_SUBMIT)
async def submit(
    model: KeyPath,
    request: Request,
    response: Response,
    hub: HubDep,
    parts: InferenceDep,
    caller: ModelCaller,
    version: Key = "",
) -> AsyncInference:
    """Take in a request that is answered when there is time; the newest release is the one of now."""
    release = await parts.loaded.release(model, version)
    async with taken_in(request, parts, release.body_limit) as asked:
        served = await parts.endpoint.load(asked, model, version, later=True)
        inputs_of(asked.context.asked, served.manifest)
        row = await asyncio.to_thread(async_queue.submit, hub, _kept(caller.actor, asked, served.number, model))
    parts.later.wake()
    response.headers["Location"] = f"/v2/models/{model}/infer_async/{row.id}"
    response.headers["Retry-After"] = str(POLL_S)
    return AsyncInference.model_validate(row)


@router.get("/infer_async/{request_id}", responses=errors(404, 429))
async def show(found: Found) -> AsyncInference:
    """Show the state of a request."""
    return AsyncInference.model_validate(found)


@router.get(
    "/infer_async/{request_id}/result",
    responses=errors(404, 413, 422, 429, 503, 504)
    | gives(oip.OipResponse, tensors=True)
    | {202: {"model": AsyncInference}},
)
async def result(found: Found, hub: HubDep) -> Response:
    """The answer as `/infer` would have given it; 202 while there is none, and the refusal where there will be none."""
    if found.state == "succeeded":
        size, pieces = await asyncio.to_thread(async_queue.answer_of, hub, found)
        return StreamingResponse(pieces, 200, found.headers | {"content-length": str(size)})
    if found.state == "failed":
        return error_response("/v2", found.code, found.error)  # type: ignore[arg-type]
    waiting = AsyncInference.model_validate(found).model_dump_json()
    return Response(waiting, 202, {"Retry-After": str(POLL_S)}, "application/json")


@router.delete("/infer_async/{request_id}", responses=errors(404, 429))
async def forget(found: Found, hub: HubDep) -> AsyncInference:
    """Delete a request and its answer; one that waits is not run."""
    await asyncio.to_thread(async_queue.forget, hub, found)
    return AsyncInference.model_validate(found)


def _kept(owner: str, asked: InferRequest, release: int, model: str) -> async_queue.QueuedRequest:
    headers = {name.decode(): asked.headers[name].decode("latin-1") for name in KEPT if name in asked.headers}
    return async_queue.QueuedRequest(owner, model, release, asked.body, headers)

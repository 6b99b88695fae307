"""The Open Inference Protocol, version 2: `/v2…` for devices and applications."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from cloud_hub.api.access import InferenceCaller, ModelCaller
from cloud_hub.api.openapi import errors, gives, takes
from cloud_hub.api.params import KeyPath
from cloud_hub.errors import BusyError, DeadlineError, HubError, TooLargeError
from cloud_hub.inference.endpoint import MARKER
from cloud_hub.inference.parts import Inference
from fleet.api.inference import (
    IndexEntry,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    ModelStatistics,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from fleet.api.types import Key
from fleet.protocol import oip
from fleet.protocol.bounds import whole_number
from fleet.protocol.errors import ProtocolError
from fleet.protocol.repository import INDEX_BODY, IndexRequest, decode_index_request
from fleet.runtimes.cost import request_too_large
from fleet.serving import LIMIT_S, ByteBudget, Reply
from fleet.serving import HotRequest as InferRequest

router = APIRouter(prefix="/v2", tags=["inference"])


def get_inference(request: Request) -> Inference:
    """Return the inference parts of this application."""
    found: Inference = request.app.state.inference
    return found


InferenceDep = Annotated[Inference, Depends(get_inference)]


@router.get("")
def server(parts: InferenceDep) -> ServerMetadata:
    """Show the server's name, version and extensions."""
    return ServerMetadata.model_validate(parts.about.server())


@router.get("/health/live")
def live() -> ServerLive:
    """The process answers."""
    return ServerLive(live=True)


@router.get("/health/ready")
def ready_to_serve() -> ServerReady:
    """Models are loaded when they are asked for, so the server is ready as soon as it answers."""
    return ServerReady(live=True, ready=True)


@router.post(
    "/repository/index", responses=errors(413, 429, 503, 504), openapi_extra=takes(IndexRequest, required=False)
)
async def repository_index(request: Request, parts: InferenceDep, caller: InferenceCaller) -> list[IndexEntry]:
    """The releases that the caller may ask; each is loaded when it is asked for."""
    pieces: list[bytes] = []
    declared = whole_number(request.headers.get("content-length", "")) or 0
    try:
        if declared > INDEX_BODY or await read_body(request, parts.budget, pieces, INDEX_BODY) > INDEX_BODY:
            raise TooLargeError(f"the body has more than {INDEX_BODY} bytes", subject="index")
        decode_index_request(b"".join(pieces))
    finally:
        parts.budget.taken -= sum(map(len, pieces))
    return [IndexEntry.model_validate(entry) for entry in await parts.about.index(caller)]


@router.get("/models/stats", responses=errors(429))
async def all_statistics(parts: InferenceDep, caller: InferenceCaller) -> ModelStatistics:
    """Show the counts of this instance for the releases in its memory."""
    return ModelStatistics.model_validate(parts.about.all_statistics(caller))


@router.get("/models/{model}", responses=errors(404, 429))
@router.get("/models/{model}/versions/{version}", responses=errors(404, 429))
async def metadata(model: KeyPath, parts: InferenceDep, caller: ModelCaller, version: Key = "") -> ModelMetadata:
    """Inputs and outputs, task, class names and preprocessing steps."""
    return ModelMetadata.model_validate(await parts.about.model(model, version))


@router.get("/models/{model}/ready", responses=errors(404, 429))
@router.get("/models/{model}/versions/{version}/ready", responses=errors(404, 429))
async def ready(model: KeyPath, parts: InferenceDep, caller: ModelCaller, version: Key = "") -> ModelReady:
    """200 once the model is loaded."""
    return ModelReady.model_validate(await parts.about.model_ready(model, version))


@router.get("/models/{model}/config", responses=errors(404, 429))
@router.get("/models/{model}/versions/{version}/config", responses=errors(404, 429))
async def config(model: KeyPath, parts: InferenceDep, caller: ModelCaller, version: Key = "") -> ModelConfig:
    """The model's configuration, as Triton's clients read it."""
    return ModelConfig.model_validate(await parts.about.config(model, version))


@router.get("/models/{model}/stats", responses=errors(404, 429))
@router.get("/models/{model}/versions/{version}/stats", responses=errors(404, 429))
async def statistics(model: KeyPath, parts: InferenceDep, caller: ModelCaller, version: Key = "") -> ModelStatistics:
    """Show the counts of this instance for one release, by default the newest."""
    return ModelStatistics.model_validate(await parts.about.statistics(model, version))


_INFER: dict[str, Any] = {
    "responses": errors(404, 413, 422, 429, 503, 504) | gives(oip.OipResponse, tensors=True),
    "openapi_extra": takes(oip.OipRequest, tensors=True),
}


@router.post("/models/{model}/infer", **_INFER)
@router.post("/models/{model}/versions/{version}/infer", **_INFER)
async def infer(
    model: KeyPath, request: Request, parts: InferenceDep, caller: ModelCaller, version: Key = ""
) -> Response:
    """Answer a batch. Here come the requests that the hot route leaves alone; see `endpoint`."""
    release = await parts.loaded.release(model, version)
    try:
        async with taken_in(request, parts, release.body_limit) as asked:
            await parts.endpoint.load(asked, model, version)
            return response_of(await parts.endpoint.answer(asked))
    except (ProtocolError, HubError) as error:
        return response_of(parts.endpoint.refusal(error))


@contextlib.asynccontextmanager
async def taken_in(request: Request, parts: Inference, limit: int) -> AsyncIterator[InferRequest]:
    """A request with its body, whose bytes count in the budget for as long as it is looked at.

    Args:
        request: with its body unread.
        parts: of inference.
        limit: of the release, as of `InferEndpoint.enter_unloaded`.

    Raises:
        TooLargeError: it has or announces more bytes. HubError: as `read_body`.
    """
    target = request.url.path.encode("utf-8", "replace")
    asked = InferRequest(b"POST", target, dict(request.scope["headers"]), began_at(request), unix=False)
    most = parts.endpoint.enter_unloaded(asked, limit)
    declared = whole_number(request.headers.get("content-length", "")) or 0
    pieces: list[bytes] = []
    try:
        size = declared if declared > most else await read_body(request, parts.budget, pieces, most)
        if size > most:
            raise request_too_large(size, limit, binary=MARKER in asked.headers)
        asked.body = b"".join(pieces)
        yield asked
    finally:
        parts.budget.taken -= sum(map(len, pieces))


async def read_body(request: Request, budget: ByteBudget, pieces: list[bytes], most: int) -> int:
    """Read the body into `pieces`, counted in the budget, and no further than one piece beyond `most` bytes.

    Returns:
        The bytes that were read.

    Raises:
        BusyError: the budget has no room for it now. DeadlineError: it does not come within `LIMIT_S["body"]`.
    """
    limit_s, size = LIMIT_S["body"], 0
    try:
        async with asyncio.timeout(limit_s):
            async for piece in request.stream():
                if not budget.fits(len(piece)):
                    raise BusyError(budget.full(len(piece)), subject="body")
                pieces.append(piece)
                budget.taken += len(piece)
                size += len(piece)
                if size > most:
                    break
    except TimeoutError:
        raise DeadlineError(f"{size} bytes of the body came in {limit_s:g} s", subject="body") from None
    return size


def began_at(request: Request) -> float:
    """Return when the request came, by the event loop's clock; the middleware that counts requests has noted it."""
    found: float = request.scope.get("edgeloop.began", 0.0) or asyncio.get_running_loop().time()
    return found


def response_of(reply: Reply) -> Response:
    """A reply of the endpoint as a response of this framework."""
    lines = (line.split(": ", 1) for line in reply.headers.decode("latin-1").split("\r\n") if line)
    return Response(reply.body, reply.status, dict(lines))

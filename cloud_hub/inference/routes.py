"""The Open Inference Protocol, version 2: `/v2…` for devices and applications."""

from __future__ import annotations

import gzip
from typing import Any

from fastapi import APIRouter, Request, Response

from cloud_hub.api.access import HubDep, ModelCaller
from cloud_hub.api.bodies import read_body
from cloud_hub.api.openapi import errors, gives, takes
from cloud_hub.api.params import KeyPath
from cloud_hub.errors import InvalidError, NoAnswerError
from cloud_hub.inference.loaded import Loaded, published
from fleet.api.inference import ModelMetadata, ModelReady, ServerLive, ServerMetadata, ServerReady
from fleet.api.types import Key
from fleet.protocol import oip
from fleet.protocol.asking import inputs_of, parameters_of
from fleet.protocol.finite import not_finite
from fleet.protocol.manifest import Manifest, decode_manifest

router = APIRouter(prefix="/v2", tags=["inference"])


@router.get("")
def server() -> ServerMetadata:
    """Who answers."""
    return ServerMetadata(name="edgeloop-hub", version="1", extensions=list(oip.EXTENSIONS))


@router.get("/health/live")
def live() -> ServerLive:
    """The process answers."""
    return ServerLive(live=True)


@router.get("/health/ready")
def ready_to_serve() -> ServerReady:
    """Models are loaded when they are asked for, so the server is ready as soon as it answers."""
    return ServerReady(live=True, ready=True)


@router.get("/models/{model}", responses=errors(404))
@router.get("/models/{model}/versions/{version}", responses=errors(404))
def metadata(model: KeyPath, hub: HubDep, caller: ModelCaller, version: Key = "") -> ModelMetadata:
    """Inputs and outputs, task, class names and preprocessing steps."""
    number, data = published(hub, model, version)
    manifest = decode_manifest(data)
    more = parameters_of(manifest)
    document = oip.model_metadata(model, [str(number)], "onnx_onnxv1", manifest.inputs, manifest.outputs, more)
    return ModelMetadata.model_validate(document)


@router.get("/models/{model}/ready", responses=errors(404))
@router.get("/models/{model}/versions/{version}/ready", responses=errors(404))
async def ready(model: KeyPath, request: Request, caller: ModelCaller, version: Key = "") -> ModelReady:
    """200 once the model is loaded."""
    await _loaded(request).get(model, version)
    return ModelReady(name=model, ready=True)


_INFER: dict[str, Any] = {
    "responses": errors(404, 422, 429, 504) | gives(oip.OipResponse),
    "openapi_extra": takes(oip.OipRequest),
}


@router.post("/models/{model}/infer", **_INFER)
@router.post("/models/{model}/versions/{version}/infer", **_INFER)
async def infer(model: KeyPath, request: Request, hub: HubDep, caller: ModelCaller, version: Key = "") -> Response:
    """Answer a batch."""
    limit = hub.config.limits.infer_body
    body = oip.decompress(await read_body(request, limit), request.headers.get("content-encoding", ""), limit=limit)
    asked = oip.decode_request(body, oip.parse_header(request.headers.get(oip.HEADER)), limit=limit)
    number, manifest, batcher = await _loaded(request).get(model, version)
    inputs = inputs_of(asked, manifest)
    outputs = await batcher.infer(inputs, timeout_s=_deadline(asked.parameters, hub.config.inference.deadline_s))
    broken = not_finite("output", outputs, manifest.outputs)
    if broken:
        raise NoAnswerError(f"release {number} of {model}: {broken}", subject=model, hint="see its cloud variant")
    answer = oip.InferResponse(
        model_name=model,
        model_version=str(number),
        id=asked.id,
        parameters=_parameters(number, manifest),
        outputs=tuple(oip.TensorValue(name, array) for name, array in outputs.items()),
    )
    return _respond(*oip.encode_response(answer, asked), request)


def _parameters(number: int, manifest: Manifest) -> dict[str, Any]:
    parameters: dict[str, Any] = {"served_by": "cloud", "release": number}
    if not all(spec.finite for spec in manifest.outputs):
        parameters["non_finite"] = True  # for a device that has no manifest yet: it would take NaN for a failure
    return parameters


def _deadline(parameters: dict[str, Any], most: float) -> float:
    """`timeout` in microseconds, as in Triton; at most the hub's own deadline."""
    wanted = parameters.get("timeout")
    if wanted is None:
        return most
    if type(wanted) is not int or wanted <= 0:
        raise InvalidError(f"timeout {wanted!r} is not a number of microseconds", subject="timeout")
    return min(wanted, int(most * 1e6)) / 1e6


def _respond(body: bytes, header: int | None, request: Request) -> Response:
    headers = {} if header is None else {oip.HEADER: str(header)}
    if "gzip" in request.headers.get("accept-encoding", "") and len(body) > 1024:
        body = gzip.compress(body, 1)
        headers["Content-Encoding"] = "gzip"
    kind = "application/json" if header is None else "application/octet-stream"
    return Response(body, headers=headers, media_type=kind)


def _loaded(request: Request) -> Loaded:
    found: Loaded = request.app.state.loaded_models
    return found

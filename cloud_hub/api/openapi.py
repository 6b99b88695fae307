"""The OpenAPI document of the hub: what FastAPI knows of the routes, completed by what the routes' parts say.

Added to each operation: the JSON body that a `JsonBody` reads, the credential that an `Access` wants, and the errors
that may come of these and of the middlewares before every route. A field or body with the mark `x-wire` (see
`fleet.api.wire`) becomes a reference to the schema that msgspec makes of the struct: what devices speak is defined in
`fleet.protocol` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from msgspec import Struct
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cloud_hub.api.access import SCHEMES, Access
from cloud_hub.api.bodies import BodyReader
from cloud_hub.api.guard import RefuseNul
from cloud_hub.api.limits import BodyLimit
from fleet.api.errors import ErrorDocument, OipError
from fleet.api.wire import MARK, partial
from fleet.protocol import calls, channel, manifest, messages, oip, refusals, repository, tuf_file
from fleet.rollouts import explain, forecast, guard, guard_policy, machine, remaining, usual

Schema = dict[str, Any]

REF = "#/components/schemas/"
JSON = "application/json"
BINARY = "application/octet-stream"

# Documents that a caller changes field by field.
POLICIES: tuple[type[Struct], ...] = (
    channel.Routing,
    channel.Audit,
    channel.Sampling,
    channel.Probation,
    channel.Bench,
    channel.Telemetry,
    channel.Fetching,
    usual.UsualSchedule,
)
_KINDS: tuple[type, ...] = (
    calls.TrustBundle,
    calls.EnrollRequest,
    calls.EnrollResponse,
    calls.NonceRequest,
    calls.NonceResponse,
    calls.TokenRequest,
    calls.TokenResponse,
    calls.RenewRequest,
    calls.RenewResponse,
    calls.DeviceMe,
    calls.Held,
    calls.HeldAnswer,
    calls.SampleBatch,
    calls.SampleReceipt,
    channel.Channel,
    manifest.Manifest,
    manifest.Floor,
    manifest.Tensor,
    messages.AgentReport,
    messages.CommandKeys,
    oip.OipRequest,
    oip.OipResponse,
    repository.IndexRequest,
    tuf_file.TufFile,
    machine.Plan,
    machine.Progress,
    guard_policy.GuardPolicy,
    usual.UsualSchedule,
    *map(partial, POLICIES),
)
# Structs that bodies and fields name, by the name that they have in the document.
STRUCTS: dict[str, type] = {
    **{kind.__name__: kind for kind in _KINDS},
    "Judgement": guard.GuardVerdict,
    "Forecast": forecast.Forecast,
    "Remaining": remaining.Remaining,
    "Explained": explain.Explained,
}

_DESCRIPTIONS = {
    400: "The request is not acceptable; the document says which field, and what to do.",
    401: "No credential, or one that is unknown, expired or revoked.",
    403: "The credential does not allow this.",
    404: "No such thing.",
    409: "It exists already, changed meanwhile, or is in use.",
    413: "The body is over its limit.",
    422: "The model took the request and failed on it.",
    429: "More requests than the token may make (`rate-limited`).",
    503: "A queue is full (`busy`), or the database or the object store does not answer (`unreachable`).",
    504: "Not done in time.",
}
# Refusals that need no route: of what stands before all of them, and of a database that does not answer.
EVERYWHERE = frozenset({RefuseNul.STATUS, BodyLimit.STATUS, 503})
LATER = {
    "Retry-After": {
        "description": "Seconds to wait before asking again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    }
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may refuse with these statuses, besides those that its parts bring along."""
    return {status: {} for status in statuses}


def takes(
    struct: type | None = None, *, media_type: str = JSON, required: bool = True, tensors: bool = False
) -> Schema:
    """The `openapi_extra` of a route that reads its body itself: JSON of `struct`, or bytes without one.

    Args:
        struct: of `STRUCTS`.
        media_type: of the JSON or the bytes.
        required: whether a body has to come.
        tensors: the body may also hold tensors as bytes after its JSON (the binary extension).
    """
    body = {"requestBody": {"required": required, "content": _content(struct, media_type, tensors)}}
    return body | ({"parameters": [{"name": oip.HEADER, "in": "header", **_JSON_LENGTH}]} if tensors else {})


def gives(
    struct: type | None = None, *, media_type: str = JSON, status: int = 200, tensors: bool = False
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that writes its answer itself: JSON of `struct`, or bytes without one.

    Args:
        struct: of `STRUCTS`.
        media_type: of the JSON or the bytes.
        status: of the answer.
        tensors: the answer may also hold tensors as bytes after its JSON, where the request asks for it.
    """
    answer: dict[str, Any] = {"content": _content(struct, media_type, tensors)}
    return {status: answer | ({"headers": {oip.HEADER: _JSON_LENGTH}} if tensors else {})}


_BYTES: Schema = {"type": "string", "format": "binary"}
_JSON_LENGTH: Schema = {
    "description": "Bytes of the JSON that comes before tensors as bytes; absent where all is JSON.",
    "required": False,
    "schema": {"type": "integer", "minimum": 0},
}


def _content(struct: type | None, media_type: str, tensors: bool) -> Schema:
    schema = {MARK: _name(struct)} if struct is not None else _BYTES
    return {media_type: {"schema": schema}} | ({BINARY: {"schema": _BYTES}} if tensors else {})


def gives_one_of(*structs: type) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with JSON of one of these.

    Args:
        structs: of `STRUCTS`.
    """
    return {200: {"content": {JSON: {"schema": {"anyOf": [{MARK: _name(struct)} for struct in structs]}}}}}


def document(routers: Sequence[APIRouter], *, title: str, version: str) -> Schema:
    """The whole document of these routers' routes."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    routes = [route for route in routes if route.include_in_schema]
    found = get_openapi(title=title, version=version, routes=routes)
    for route in routes:
        for method in sorted(route.methods or ()):
            _complete(found["paths"][route.path_format][method.lower()], route)
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for gone in ("HTTPValidationError", "ValidationError"):
        schemas.pop(gone, None)
    schemas |= _body_schemas(routes)
    schemas |= _struct_schemas()
    components["securitySchemes"] = {
        name: {"type": "http", "scheme": "bearer", "description": text} for name, text in SCHEMES.items()
    }
    resolved: Schema = _resolved(found)
    return resolved


def _complete(operation: Schema, route: APIRoute) -> None:
    responses = operation["responses"]
    responses.pop("422", None) if 422 not in route.responses else None
    own = {int(status) for status, response in route.responses.items() if "description" in response}  # no refusals
    statuses = {int(status) for status in route.responses if int(status) >= 400} | EVERYWHERE
    for part in _parts(route.dependant):
        if isinstance(part, BodyReader):
            optional = not any(field.is_required() for field in part.kind.model_fields.values())
            schema = {"$ref": REF + part.kind.__name__}
            operation["requestBody"] = {"required": not optional, "content": {JSON: {"schema": schema}}}
        if isinstance(part, Access):
            operation["security"] = part.security
            statuses |= {401, 403}
    operation.setdefault("security", [])
    kind = OipError if route.path_format.startswith("/v2") else ErrorDocument
    for status in sorted(statuses - own):
        responses[str(status)] = _refusal(status, kind)
    for status, response in responses.items():
        response.setdefault("description", HTTPStatus(int(status)).phrase)
        if "content" in response and not response["content"]:
            del response["content"]


def _refusal(status: int, kind: type[BaseModel]) -> Schema:
    content = {JSON: {"schema": {"$ref": REF + kind.__name__}}}
    return {"description": _DESCRIPTIONS[status], "content": content} | (
        {"headers": LATER} if status in refusals.LATER else {}
    )


def _parts(dependant: Dependant) -> Iterator[object]:
    yield dependant.call
    for inner in dependant.dependencies:
        yield from _parts(inner)


def _body_schemas(routes: Iterable[APIRoute]) -> Schema:
    kinds = {part.kind for route in routes for part in _parts(route.dependant) if isinstance(part, BodyReader)}
    wanted = sorted(kinds, key=lambda kind: str(kind.__name__))
    bodies = models_json_schema([(kind, "validation") for kind in wanted], ref_template=REF + "{model}")[1]
    answers = models_json_schema(
        [(kind, "serialization") for kind in (ErrorDocument, OipError)], ref_template=REF + "{model}"
    )[1]
    return {**bodies.get("$defs", {}), **answers["$defs"]}


def _struct_schemas() -> Schema:
    kinds = list(STRUCTS.values())
    references, components = msgspec.json.schema_components(kinds, ref_template=REF + "{name}")
    # A struct may be called otherwise here than in msgspec's components, where two share a name.
    aliases = {name: ref for name, ref in zip(STRUCTS, references, strict=True) if ref["$ref"] != REF + name}
    return {**components, **aliases}


def _name(struct: type) -> str:
    return next(name for name, kind in STRUCTS.items() if kind is struct)


def _resolved(node: Any) -> Any:
    """The document with a reference in place of each mark."""
    if isinstance(node, list):
        return [_resolved(item) for item in node]
    if not isinstance(node, dict):
        return node
    if MARK in node:
        kept = {key: value for key, value in node.items() if key in ("description", "default")}
        return {"$ref": REF + node[MARK], **kept}
    return {key: _resolved(value) for key, value in node.items()}

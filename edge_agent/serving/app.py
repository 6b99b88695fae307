"""The agent's local API beside the hot route (see `infer`): the rest of the protocol v2, `/metrics` and `/status`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_agent import VERSION
from edge_agent.errors import NotFoundError
from edge_agent.serving import access
from edge_agent.serving.engine import Engine
from edge_agent.serving.infer import SOON_S
from edge_agent.serving.metrics import CONTENT_TYPE, Metrics
from edge_agent.serving.slots import Served
from fleet.protocol import oip
from fleet.protocol.asking import parameters_of
from fleet.protocol.refusals import STATUS, Code, code_of

PLATFORMS = {"litert": "litert_tflite", "onnx": "onnx_onnxv1"}


class App:
    """An ASGI application over one engine. `status` gives the `/status` document."""

    def __init__(self, engine: Engine, metrics: Metrics, status: Callable[[], dict[str, Any]]) -> None:
        self._engine = engine
        self._metrics = metrics
        self._status = status
        self._routes: ASGIApp = Starlette(
            routes=[
                Route("/v2", self._server),
                Route("/v2/health/live", self._live),
                Route("/v2/health/ready", self._ready),
                Route("/v2/models/{model}", self._model),
                Route("/v2/models/{model}/versions/{version}", self._model),
                Route("/v2/models/{model}/ready", self._model_ready),
                Route("/v2/models/{model}/versions/{version}/ready", self._model_ready),
                Route("/v2/models/{model}/infer", self._infer, methods=["POST"]),
                Route("/v2/models/{model}/versions/{version}/infer", self._infer, methods=["POST"]),
                Route("/metrics", self._scrape),
                Route("/status", self._show_status),
            ],
            exception_handlers={NotFoundError: _not_found, HTTPException: _http_error, Exception: _unexpected},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection scope."""
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        unix = scope["server"] is not None and scope["server"][1] is None
        refused = access.refused(dict(scope["headers"]), unix=unix)
        if refused:
            await _refusal("forbidden", refused)(scope, receive, send)
        else:
            await self._routes(scope, receive, send)

    async def _infer(self, request: Request) -> Response:
        """A path that the hot route left alone: no model can have such a name."""
        raise NotFoundError(f"model {request.path_params['model']!r} is not served here", hint="see GET /status")

    async def _server(self, _request: Request) -> Response:
        return _json({"name": "edgeloop-agent", "version": VERSION, "extensions": list(oip.EXTENSIONS)})

    async def _live(self, _request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, _request: Request) -> Response:
        ready = bool(self._engine.slots.names())
        answer = _json({"live": True, "ready": ready}, 200 if ready else 503)
        if not ready:
            answer.headers["retry-after"] = str(SOON_S)
        return answer

    async def _model(self, request: Request) -> Response:
        served = self._held(request)
        slot = self._engine.slots.slot(served.release.model)
        held = [s for s in ((slot.active, slot.previous) if slot else ()) if s is not None]
        manifest, variant = served.release.manifest, served.release.variant
        return _json(
            oip.model_metadata(
                served.release.model,
                [str(s.release.number) for s in held],
                PLATFORMS[variant.runtime],
                manifest.inputs,
                manifest.outputs,
                parameters_of(manifest),
            )
        )

    async def _model_ready(self, request: Request) -> Response:
        return _json({"name": self._held(request).release.model, "ready": True})

    def _held(self, request: Request) -> Served:
        model, version = request.path_params["model"], request.path_params.get("version", "")
        with self._engine.slots.lease(model, version) as served:
            if served is None:
                what = f"model {model!r}" + (f" version {version!r}" if version else "")
                raise NotFoundError(f"{what} is not served here", subject=model, hint="see GET /status")
            return served

    async def _scrape(self, _request: Request) -> Response:
        return Response(self._metrics.render(), media_type=CONTENT_TYPE)

    async def _show_status(self, _request: Request) -> Response:
        return _json(self._status())


def _refusal(code: Code, text: str, hint: str = "") -> Response:
    return _json({"error": f"{text}; {hint}" if hint else text, "code": code}, STATUS[code])


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: no such path, or another method than the path takes."""
    assert isinstance(error, HTTPException)
    what = f"{error.detail}: {request.method} {request.url.path}"
    text = what.encode("utf-8", "replace").decode()
    answer = _refusal(code_of(error.status_code), text, "see GET /v2 and GET /status")
    answer.headers.update(error.headers or {})
    return answer


async def _unexpected(_request: Request, _error_: Exception) -> Response:
    return _refusal("internal", "internal error; the agent's log has the reason")


async def _not_found(_request: Request, error: Exception) -> Response:
    assert isinstance(error, NotFoundError)
    return _refusal("not-found", str(error), error.hint)

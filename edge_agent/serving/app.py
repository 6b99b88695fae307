"""The agent's local API: the Open Inference Protocol v2, `/metrics` and `/status`.

It listens on loopback or a Unix socket only. Host and Origin are checked, so that a web page in a
browser on the device cannot reach it through DNS rebinding. `…/infer` is answered before
Starlette's router is asked: that path is the one whose microseconds count.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
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
from edge_agent.errors import InferenceError, NotFoundError
from edge_agent.serving.bounds import BODY_LIMIT as BODY_LIMIT
from edge_agent.serving.bounds import INFLATED, SMALL, InFlight, Share, check_answer, check_json
from edge_agent.serving.engine import Engine
from edge_agent.serving.metrics import CONTENT_TYPE, Metrics
from edge_agent.serving.slots import Served
from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError, TooLargeError

SOON_S = 1  # Retry-After of a 503 for which nothing better is known
log = logging.getLogger(__name__)

INFER = re.compile(r"/v2/models/([a-z0-9][a-z0-9-]{0,62})(?:/versions/([0-9]{1,9}))?/infer")
LOOPBACK = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")
PLATFORMS = {"litert": "litert_tflite", "onnx": "onnx_onnxv1"}


class App:
    """An ASGI application over one engine. `status` gives the `/status` document."""

    def __init__(
        self, engine: Engine, metrics: Metrics, status: Callable[[], dict[str, Any]], *, unix: bool = False
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._status = status
        self._unix = unix
        self._in_flight = InFlight()
        self._routes: ASGIApp = Starlette(
            routes=[
                Route("/v2", self._server),
                Route("/v2/health/live", self._live),
                Route("/v2/health/ready", self._ready),
                Route("/v2/models/{model}", self._model),
                Route("/v2/models/{model}/versions/{version}", self._model),
                Route("/v2/models/{model}/ready", self._model_ready),
                Route("/v2/models/{model}/versions/{version}/ready", self._model_ready),
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
        headers: dict[bytes, bytes] = dict(scope["headers"])
        refused = self._refuse(headers)
        if refused:
            await _answer(send, 403, _error(refused))
            return
        match = INFER.fullmatch(scope["path"])
        if match is None:
            await self._routes(scope, receive, send)
        elif scope["method"] != "POST":
            await _answer(send, 405, _error("infer takes POST"))
        else:
            await self._infer(match[1], match[2] or "", headers, receive, send)

    def _refuse(self, headers: dict[bytes, bytes]) -> str:
        if not self._unix and LOOPBACK.fullmatch(headers.get(b"host", b"")) is None:
            return "the Host header is not this device's loopback address; call http://127.0.0.1:PORT"
        origin = headers.get(b"origin")
        if origin is not None and LOOPBACK.fullmatch(origin.partition(b"://")[2]) is None:
            return "requests from web pages of other origins are refused"
        return ""

    async def _infer(self, model: str, version: str, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        try:
            with Share(self._in_flight) as share:
                request = await self._request(model, headers, receive, share)
                response = await self._engine.infer(model, version, request)
                check_answer(response, request)
                data, head = oip.encode_response(response, request)
        except TooLargeError as error:
            await _answer(send, 413, _error(str(error), error.hint))
        except ProtocolError as error:
            await _answer(send, 400, _error(str(error), error.hint))
        except NotFoundError as error:
            await _answer(send, 404, _error(str(error), error.hint))
        except InferenceError as error:
            later = SOON_S if error.retry_after_s is None else error.retry_after_s
            await _answer(send, 503, _error(str(error), error.hint), retry_after_s=later)
        except _GoneError:
            log.debug("a client went away before its request was complete")
        else:
            await _answer(send, 200, data, head)

    async def _request(
        self, model: str, headers: dict[bytes, bytes], receive: Receive, share: Share
    ) -> oip.InferRequest:
        try:
            limit = self._engine.body_limit(model)
            body = await _read(headers, receive, limit, share)
            marker = headers.get(b"inference-header-content-length")
            length = oip.parse_header(marker.decode("latin-1") if marker is not None else None)
            check_json(body, length)
            return oip.decode_request(body, length, limit=limit)
        except ProtocolError as error:
            self._engine.refuse(model, error)
            raise

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


class _GoneError(Exception):
    """The client closed the connection in the middle of its request."""


async def _read(headers: dict[bytes, bytes], receive: Receive, limit: int, share: Share) -> bytes:
    """A body of at most `limit` bytes; what it holds is taken from `share`.

    Raises:
        TooLargeError: it is larger. InferenceError: others hold too much now. _GoneError: it does not come any more.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise TooLargeError(f"the body has {int(declared)} bytes, at most {limit} are allowed for this model")
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise _GoneError
    if message.get("more_body"):
        share.check(int(declared) if declared.isdigit() else len(body))
        body = await _read_rest(body, receive, limit, share)
    elif len(body) > SMALL:
        share.take(len(body))
    encoding = headers.get(b"content-encoding")
    if encoding is None:
        return body
    share.take(min(limit, INFLATED * len(body)))
    # In a thread: a few bytes may inflate to the limit, and inflating holds no lock of the interpreter.
    return await asyncio.to_thread(oip.decompress, body, encoding.decode("latin-1"), limit=limit)


async def _read_rest(first: bytes, receive: Receive, limit: int, share: Share) -> bytes:
    parts, size = [first], len(first)
    share.take(size)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLargeError(f"the body has more than {limit} bytes, which is what this model can need")
        share.take(len(part))
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def _answer(
    send: Send, status: int, body: bytes, head: int | None = None, *, retry_after_s: float | None = None
) -> None:
    kind = b"application/json" if head is None else b"application/octet-stream"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    if head is not None:
        headers.append((b"inference-header-content-length", b"%d" % head))
    if retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(retry_after_s))))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _error(text: str, hint: str = "") -> bytes:
    return msgspec.json.encode({"error": f"{text}; {hint}" if hint else text})


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: no such path, or another method than the path takes."""
    assert isinstance(error, HTTPException)
    what = f"{error.detail}: {request.method} {request.url.path}"
    body = _error(what.encode("utf-8", "replace").decode(), "see GET /v2 and GET /status")
    return Response(body, error.status_code, error.headers, "application/json")


async def _unexpected(_request: Request, _error_: Exception) -> Response:
    return Response(_error("internal error; the agent's log has the reason"), 500, media_type="application/json")


async def _not_found(_request: Request, error: Exception) -> Response:
    assert isinstance(error, NotFoundError)
    return Response(_error(str(error), error.hint), 404, media_type="application/json")

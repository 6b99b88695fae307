"""The agent's local API beside the hot route (see `infer`): the rest of the protocol v2, `/metrics` and `/status`.

Nine paths that take GET need no framework: importing one took a fifth of the agent's start and 2 MB of it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from edge_agent import VERSION
from edge_agent.errors import NotFoundError
from edge_agent.serving import access
from edge_agent.serving.engine import Engine
from edge_agent.serving.infer import SOON_S
from edge_agent.serving.metrics import CONTENT_TYPE, Metrics
from edge_agent.serving.slots import Served
from fleet.protocol import oip
from fleet.protocol.asking import parameters_of
from fleet.serving import JSON, Reply, error_reply

log = logging.getLogger(__name__)

Scope = Mapping[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
PLATFORMS = {"litert": "litert_tflite", "onnx": "onnx_onnxv1"}
MODEL = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"
METHODS = b"GET, HEAD"


class App:
    """An ASGI application over one engine. `status` gives the `/status` document."""

    def __init__(self, engine: Engine, metrics: Metrics, status: Callable[[], dict[str, Any]]) -> None:
        self._engine = engine
        routes: dict[str, Callable[..., Reply]] = {
            "/v2": lambda: _json({"name": "edgeloop-agent", "version": VERSION, "extensions": list(oip.EXTENSIONS)}),
            "/v2/health/live": lambda: _json({"live": True}),
            "/v2/health/ready": self._ready,
            MODEL: self._model,
            MODEL + "/ready": self._model_ready,
            "/metrics": lambda: Reply(200, b"content-type: %b\r\n" % CONTENT_TYPE.encode(), metrics.render()),
            "/status": lambda: _json(status()),
        }
        self._routes = [(re.compile(path), answer) for path, answer in routes.items()]
        self._infer = re.compile(MODEL + "/infer")

    async def __call__(self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        """One request. Its body, if it has one, is not read."""
        unix = scope["server"] is not None and scope["server"][1] is None
        refused = access.refused(dict(scope["headers"]), unix=unix)
        try:
            reply = error_reply(403, "forbidden", refused) if refused else self._answer(scope["method"], scope["path"])
        except NotFoundError as error:
            reply = error_reply(404, "not-found", f"{error}; {error.hint}")
        except Exception:  # the boundary: logged with its trace
            log.exception("%s %s failed", scope["method"], scope["path"])
            reply = error_reply(500, "internal", "internal error; the agent's log has the reason")
        headers = [tuple(line.split(b": ", 1)) for line in reply.headers.split(b"\r\n") if line]
        headers.append((b"content-length", b"%d" % len(reply.body)))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _answer(self, method: str, path: str) -> Reply:
        shown = f"{method} {path}".encode("utf-8", "replace").decode()
        path = path.removesuffix("/")
        for pattern, answer in self._routes:
            match = pattern.fullmatch(path)
            if match is not None:
                if method not in ("GET", "HEAD"):
                    return _not_allowed(shown, METHODS)
                return answer(**{name: value or "" for name, value in match.groupdict().items()})
        match = self._infer.fullmatch(path)
        if match is None:
            return error_reply(404, "not-found", f"Not Found: {shown}; see GET /v2 and GET /status")
        if method != "POST":
            return _not_allowed(shown, b"POST")
        # The hot route left it alone: no model can have such a name.
        raise NotFoundError(f"model {match['model']!r} is not served here", hint="see GET /status")

    def _ready(self) -> Reply:
        ready = bool(self._engine.slots.names())
        answer = _json({"live": True, "ready": ready}, 200 if ready else 503)
        return answer if ready else answer._replace(headers=answer.headers + b"retry-after: %d\r\n" % SOON_S)

    def _model(self, model: str, version: str) -> Reply:
        served = self._held(model, version)
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

    def _model_ready(self, model: str, version: str) -> Reply:
        return _json({"name": self._held(model, version).release.model, "ready": True})

    def _held(self, model: str, version: str) -> Served:
        served = self._engine.slots.find(model, version)
        if served is None:
            what = f"model {model!r}" + (f" version {version!r}" if version else "")
            raise NotFoundError(f"{what} is not served here", subject=model, hint="see GET /status")
        return served


def _not_allowed(shown: str, methods: bytes) -> Reply:
    text = f"Method Not Allowed: {shown}; it takes {methods.decode()}"
    return error_reply(405, "method-not-allowed", text, b"allow: %b\r\n" % methods)


def _json(value: dict[str, Any], status: int = 200) -> Reply:
    return Reply(status, JSON, msgspec.json.encode(value))

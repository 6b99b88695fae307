"""The agent's local API beside the hot route (see `infer`): the rest of the protocol v2, `/metrics` and `/status`.

A dozen paths need no framework: importing one took a fifth of the agent's start and 2 MB of it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from edge_agent.errors import NotFoundError
from edge_agent.serving import access
from edge_agent.serving.about import About
from edge_agent.serving.engine import Engine
from edge_agent.serving.infer import SOON_S, error_answer
from edge_agent.serving.metrics import CONTENT_TYPE, Metrics
from fleet.protocol import repository
from fleet.protocol.errors import ProtocolError, TooLargeError
from fleet.serving import JSON, Reply, error_reply

log = logging.getLogger(__name__)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
MODEL = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"
INDEX = "/v2/repository/index"
METHODS = b"GET, HEAD"


class App:
    """An ASGI application over one engine. `status` gives the `/status` document."""

    def __init__(self, engine: Engine, metrics: Metrics, status: Callable[[], dict[str, Any]]) -> None:
        self.about = about = About(engine)
        routes: dict[str, Callable[..., Reply]] = {
            "/v2": lambda: _json(about.server()),
            "/v2/health/live": lambda: _json({"live": True}),
            "/v2/health/ready": self._ready,
            "/v2/models/stats": lambda: _json(about.statistics("", "")),
            MODEL: lambda model, version: _json(about.model(model, version)),
            MODEL + "/ready": lambda model, version: _json(about.model_ready(model, version)),
            MODEL + "/config": lambda model, version: _json(about.config(model, version)),
            MODEL + "/stats": lambda model, version: _json(about.statistics(model, version)),
            "/metrics": lambda: Reply(200, b"content-type: %b\r\n" % CONTENT_TYPE.encode(), metrics.render()),
            "/status": lambda: _json(status()),
        }
        self._routes = [(re.compile(path), answer) for path, answer in routes.items()]
        self._infer = re.compile(MODEL + "/infer")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Its body, if it has one, is read for the index alone."""
        unix = scope["server"] is not None and scope["server"][1] is None
        refused = access.refused(dict(scope["headers"]), unix=unix)
        try:
            if refused:
                reply = error_reply(403, "forbidden", refused)
            elif (scope["method"], scope["path"].removesuffix("/")) == ("POST", INDEX):
                reply = await self._index(dict(scope["headers"]), receive)
            else:
                reply = self._answer(scope["method"], scope["path"])
        except (NotFoundError, ProtocolError) as error:
            reply = error_answer(error)
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
        if match is None and path != INDEX:
            return error_reply(404, "not-found", f"Not Found: {shown}; see GET /v2 and GET /status")
        if match is None or method != "POST":
            return _not_allowed(shown, b"POST")
        # The hot route left it alone: no model can have such a name, or release such a number.
        version = f" version {match['version']!r}" if match["version"] else ""
        raise NotFoundError(f"model {match['model']!r}{version} is not served here", hint="see GET /status")

    async def _index(self, headers: Mapping[bytes, bytes], receive: Receive) -> Reply:
        if int(headers.get(b"content-length", b"0")) > repository.INDEX_BODY:  # before it is asked to go on
            raise TooLargeError(f"the body has more than {repository.INDEX_BODY} bytes", subject="index")
        body, more = b"", True
        while more and len(body) <= repository.INDEX_BODY:
            event = await receive()
            body += event.get("body", b"")
            more = event["type"] == "http.request" and event.get("more_body", False)
        asked = repository.decode_index_request(body)
        return _json(self.about.index(asked.ready is True))

    def _ready(self) -> Reply:
        ready = self.about.ready()
        answer = _json({"live": True, "ready": ready}, 200 if ready else 503)
        return answer if ready else answer._replace(headers=answer.headers + b"retry-after: %d\r\n" % SOON_S)


def _not_allowed(shown: str, methods: bytes) -> Reply:
    text = f"Method Not Allowed: {shown}; it takes {methods.decode()}"
    return error_reply(405, "method-not-allowed", text, b"allow: %b\r\n" % methods)


def _json(value: object, status: int = 200) -> Reply:
    return Reply(status, JSON, msgspec.json.encode(value))

"""`/metrics` for Prometheus."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_hub.api.access import Viewer
from cloud_hub.api.openapi import gives
from cloud_hub.ingest.service import MESSAGES
from cloud_hub.monitoring.metrics import FleetCollector
from cloud_hub.services.periodic import BUSY, LOOKS

router = APIRouter(tags=["monitoring"])


class HttpMetrics:
    """Counts requests by route, method and status; a route's pattern and never its values is the label."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "edgeloop_hub_http_requests_total", "HTTP requests", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "edgeloop_hub_http_request_seconds", "Time to answer", ["method", "route"], registry=registry
        )


def install(app: FastAPI, registry: CollectorRegistry) -> None:
    """Give `app` its registry (`app.state.registry`, for others to add to) and the counting middleware."""
    metrics = HttpMetrics(registry)
    registry.register(FleetCollector(app.state.hub))
    for counted in (MESSAGES, LOOKS, BUSY):
        registry.register(counted)
    app.state.registry = registry

    app.add_middleware(CountRequests, metrics=metrics)


class CountRequests:
    """ASGI middleware around every request; it buffers nothing."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request when its answer is complete."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, streams_from = time.perf_counter(), 500, 0.0
        scope["edgeloop.began"] = asyncio.get_running_loop().time()

        async def watched(message: Message) -> None:
            nonlocal status, streams_from
            if message["type"] == "http.response.start":
                status = message["status"]
                if (b"content-type", b"text/event-stream; charset=utf-8") in message["headers"]:
                    streams_from = time.perf_counter()
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.requests.labels(scope["method"], route, str(status)).inc()
            self._metrics.seconds.labels(scope["method"], route).observe(
                (streams_from or time.perf_counter()) - started  # a stream lasts as long as somebody looks
            )


@router.get("/metrics", response_class=Response, responses=gives(media_type="text/plain"))
def metrics(request: Request, caller: Viewer) -> Response:
    """Prometheus text; needs a token of role viewer."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)

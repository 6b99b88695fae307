"""`/metrics` for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from sqlalchemy import func
from sqlmodel import col, select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_hub.api.access import Viewer
from cloud_hub.api.openapi import gives
from cloud_hub.context import Hub
from cloud_hub.ingest.service import MESSAGES
from cloud_hub.store.tables import Alarm, ChannelRow, Device, DeviceModel, Job, Release, RolloutRow
from cloud_hub.trust.repository import expires_at
from cloud_hub.trust.rows import latest_metadata

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


class FleetCollector(Collector):
    """The fleet's state, read from the database at each scrape."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        """Gauges by state."""
        now = self._hub.clock()
        with self._hub.reading() as session:
            silent = now - self._hub.config.offline_after_s
            alive = (col(Device.revoked_at).is_(None), col(Device.last_seen_at) >= silent)
            total = session.exec(select(func.count()).select_from(Device)).one()
            revoked = session.exec(select(func.count()).where(col(Device.revoked_at).is_not(None))).one()
            online = session.exec(select(func.count()).where(*alive, col(Device.online))).one()
            counts: dict[tuple[str, str, str], dict[str, float]] = {
                ("edgeloop_hub_device_models", "Models on devices", "state"): _grouped(session, DeviceModel.state),
                ("edgeloop_hub_releases", "Releases", "status"): _grouped(session, Release.status),
                ("edgeloop_hub_rollouts", "Rollouts", "state"): _grouped(session, RolloutRow.state),
                ("edgeloop_hub_jobs", "Jobs", "state"): _grouped(session, Job.state),
                ("edgeloop_hub_alarms", "Drift alarms", "status"): _grouped(session, Alarm.status),
            }
            versions = {row.name: float(row.version) for row in session.exec(select(ChannelRow))}
            ends = {role: expires_at(body) - now for role, body in latest_metadata(session).items()}
        devices: dict[str, float] = {"online": online, "offline": total - revoked - online, "revoked": revoked}
        counts["edgeloop_hub_devices", "Devices", "state"] = devices
        counts["edgeloop_hub_channel_version", "Channel versions", "channel"] = versions
        counts["edgeloop_hub_metadata_expires_seconds", "Time until signed metadata expires", "role"] = ends
        for (name, text, label), values in counts.items():
            family = GaugeMetricFamily(name, text, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family


def _grouped(session: Any, column: Any) -> dict[str, float]:
    return {key: float(count) for key, count in session.exec(select(column, func.count()).group_by(column))}


def install(app: FastAPI) -> None:
    """Give `app` its registry (`app.state.registry`, for others to add to) and the counting middleware."""
    registry = CollectorRegistry()
    metrics = HttpMetrics(registry)
    registry.register(FleetCollector(app.state.hub))
    registry.register(MESSAGES)
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
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.requests.labels(scope["method"], route, str(status)).inc()
            self._metrics.seconds.labels(scope["method"], route).observe(time.perf_counter() - started)


@router.get("/metrics", response_class=Response, responses=gives(media_type="text/plain"))
def metrics(request: Request, caller: Viewer) -> Response:
    """Prometheus text; needs a token of role viewer."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)

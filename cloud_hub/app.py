"""The HTTP application: routers, error handling, limits, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry

from cloud_hub import drift, ingest, jobs, rollouts, samples
from cloud_hub.api import (
    audit,
    blobs,
    channels,
    devices,
    docs,
    enroll,
    events,
    health,
    models,
    monitoring,
    releases,
    tokens,
    tuf,
)
from cloud_hub.api import drift as drift_routes
from cloud_hub.api import jobs as jobs_routes
from cloud_hub.api import rollouts as rollout_routes
from cloud_hub.api import samples as sample_routes
from cloud_hub.api.errors import install_error_handlers
from cloud_hub.api.guard import RefuseNul
from cloud_hub.api.limits import BodyLimit
from cloud_hub.api.openapi import document
from cloud_hub.api.spellings import TakeSpellings
from cloud_hub.context import Hub
from cloud_hub.dashboard import routes as dashboard
from cloud_hub.devices.held import HeldIntake
from cloud_hub.identity.sharing import RateSharing
from cloud_hub.inference.async_routes import router as async_router
from cloud_hub.inference.loaded import WarmUp
from cloud_hub.inference.parts import Inference
from cloud_hub.inference.routes import router as inference_router
from cloud_hub.inference.rpc import make_rpc_server
from cloud_hub.inference.tracing import make_tracer
from cloud_hub.monitoring.health import HubHealth
from cloud_hub.services.supervisor import Service, run_services
from fleet.tracing import OFF, Tracer

log = logging.getLogger(__name__)


def routers() -> list[APIRouter]:
    """Every router of the hub, in order of matching; add yours here. A request is compared with one route after the
    other, so those that are asked most often come first."""
    return [
        *inference_routers(),
        enroll.router,
        tuf.router,
        blobs.router,
        tokens.router,
        devices.router,
        models.router,
        releases.router,
        channels.router,
        rollout_routes.router,
        drift_routes.router,
        sample_routes.router,
        jobs_routes.router,
        audit.router,
        events.router,
        docs.router,
        *dashboard.routers(),
    ]


def inference_routers() -> list[APIRouter]:
    """The routers of an instance that answers inference requests alone."""
    return [health.router, monitoring.router, inference_router, async_router]


def all_services(hub: Hub, tracer: Tracer = OFF) -> list[Service]:
    """Every service that `serve` runs; add your package's `services(hub)` here."""
    from cloud_hub.events.delivery import services as event_services
    from cloud_hub.events.watch import services as end_watch
    from cloud_hub.monitoring.watch import services as hub_watch
    from cloud_hub.trust.refresher import services as trust_services

    return [
        *trust_services(hub),
        *ingest.services(hub, tracer),
        *rollouts.services(hub),
        *drift.services(hub),
        *samples.services(hub),
        *jobs.services(hub),
        *event_services(hub),
        *end_watch(hub),
        *hub_watch(hub),
    ]


def inference_services(hub: Hub, inference: Inference) -> list[Service]:
    """Return the services that run beside the answering of requests, in every process that answers some."""
    rpc = make_rpc_server(hub.config, inference.rpc)
    sharing = RateSharing(hub, inference.admission.rates)
    return [WarmUp(hub, inference.loaded), inference.later, sharing, *([rpc] if rpc is not None else [])]


class HubApp(FastAPI):
    """The application, with its own way to the OpenAPI document."""

    routes_of: list[APIRouter]

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = document(self.routes_of, title="Edgeloop hub", version="1")
        return self.openapi_schema


def create_app(
    hub: Hub, services: Sequence[Service] = (), *, inference_only: bool = False, tracer: Tracer | None = None
) -> FastAPI:
    """The application around `hub`; `services` run as long as it does, `tracer` is by default what its settings ask.

    With `inference_only` it answers inference requests and says how it stands, and nothing else.
    """

    registry = CollectorRegistry()
    inference = Inference(hub, registry, tracer or make_tracer(hub.config))
    running = [*services, *inference_services(hub, inference)] if services or inference_only else []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(run_services(running), name="services")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            app.state.health.close()
            inference.close()

    app = HubApp(lifespan=lifespan, openapi_url=None)
    app.state.hub = hub
    app.state.inference, app.state.admission = inference, inference.admission
    app.state.held = HeldIntake(hub)
    app.state.health = HubHealth(hub, ()) if inference_only else HubHealth(hub)
    app.add_middleware(BodyLimit, limits=hub.config.limits)
    app.add_middleware(RefuseNul)
    install_error_handlers(app)
    monitoring.install(app, registry)
    app.routes_of = inference_routers() if inference_only else routers()
    if not inference_only:
        dashboard.install(app)
    app.add_middleware(TakeSpellings)  # around all others: they see each path as it is documented
    for router in app.routes_of:
        # Not `include_router`, which at the first request makes each route anew, for nothing that differs here.
        app.router.routes.extend(router.routes)
    return app

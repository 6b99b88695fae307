"""The first page: what is wrong, and what is going on."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from cloud_hub.dashboard.rendering import Framed
from cloud_hub.dashboard.views.overview import overview

router = APIRouter(include_in_schema=False)


@router.get("/")
async def show(frame: Framed) -> Response:
    """The fleet at a glance."""
    parts = await frame.request.app.state.health.look()
    view = await run_in_threadpool(overview, frame.hub, parts)
    return await run_in_threadpool(frame.show, "overview.html", view=view)

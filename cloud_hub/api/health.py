"""`/healthz` (this process lives) and `/readyz` (it can do its work): public, and quick whatever hangs.

Both run on the event loop alone: the threads of the other routes may all be waiting for what hangs.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from cloud_hub.api.errors import RETRY_AFTER_S
from cloud_hub.api.openapi import LATER
from cloud_hub.monitoring import health
from cloud_hub.ports import Part
from fleet.api.monitoring import Health

router = APIRouter(tags=["monitoring"])
Exclude = Annotated[list[str], Query(description="A part that shall not count; repeatable.", max_length=16)]


@router.get("/healthz")
async def healthz(request: Request, response: Response) -> Health:
    """Tell whether the process lives: 200 as long as it answers, for a restart mends no database; see the body."""
    return _answer(response, await request.app.state.health.look())


_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": Health, "description": "A part does not work: the same document.", "headers": LATER}
}


@router.get("/readyz", responses=_NOT_READY)
async def readyz(request: Request, response: Response, exclude: Exclude = []) -> Health:  # noqa: B006  # FastAPI copies it
    """Tell whether every part works: 200, else 503."""
    answer = _answer(response, health.without(await request.app.state.health.look(), exclude))
    if answer.status != "ok":
        response.status_code = 503
        response.headers["Retry-After"] = RETRY_AFTER_S
    return answer


def _answer(response: Response, parts: dict[str, Part]) -> Health:
    response.headers["Cache-Control"] = "no-store"
    return Health.model_validate({"status": health.status_of(parts), "parts": parts})

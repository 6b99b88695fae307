"""Drift: alarms, what is watched, and each window's distance over time."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from cloud_hub.dashboard.rendering import HEADERS, Framed
from cloud_hub.dashboard.views import plots
from cloud_hub.dashboard.views.drift import drift_page

router = APIRouter(prefix="/drift", include_in_schema=False)


@router.get("")
def show(frame: Framed) -> Response:
    """Alarms and monitors."""
    return frame.show("drift.html", view=drift_page(frame.hub))


@router.get("/plots.json")
def draw(frame: Framed) -> Response:
    """The plots' data."""
    return JSONResponse({"items": plots.drift_plots(frame.hub)}, headers=HEADERS)

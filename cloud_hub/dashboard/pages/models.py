"""Models: all of them, and one with its releases."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from cloud_hub.api.params import KeyPath
from cloud_hub.dashboard.rendering import Framed
from cloud_hub.dashboard.views.models import model_page, models_page

router = APIRouter(prefix="/models", include_in_schema=False)


@router.get("")
def show_list(frame: Framed) -> Response:
    """Every model: how it answers, and how right."""
    return frame.show("models.html", view=models_page(frame.hub))


@router.get("/{model}")
def show(model: KeyPath, frame: Framed) -> Response:
    """One model with its releases."""
    return frame.show("model.html", view=model_page(frame.hub, model))

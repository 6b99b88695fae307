"""Models: all of them, and one with its releases."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter
from starlette.responses import Response

from cloud_hub.api.params import KeyPath, NumberPath
from cloud_hub.cards.facts import gather
from cloud_hub.cards.markdown import card
from cloud_hub.dashboard.rendering import HEADERS, Framed
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


@router.get("/{model}/releases/{number}/card")
def show_card(model: KeyPath, number: NumberPath, frame: Framed) -> Response:
    """A release's model card, as its text."""
    text = card(gather(frame.hub, model, number), at=frame.hub.clock())
    return frame.show("card.html", model=model, number=number, text=text)


@router.get("/{model}/releases/{number}/card.md")
def download_card(model: KeyPath, number: NumberPath, frame: Framed) -> Response:
    """The same as a file."""
    text = card(gather(frame.hub, model, number), at=frame.hub.clock())
    name = quote(f"{model}-{number}.md", safe="")
    headers = {**HEADERS, "Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
    return Response(text, media_type="text/markdown; charset=utf-8", headers=headers)

"""A model's samples with their answers and labels, and their pictures."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from cloud_hub.api.params import KeyPath
from cloud_hub.dashboard.rendering import HEADERS, Framed
from cloud_hub.dashboard.views.samples import page_of
from cloud_hub.errors import NotFoundError
from cloud_hub.samples import pictures, store

router = APIRouter(include_in_schema=False)


@router.get("/models/{model}/samples")
def show(model: KeyPath, frame: Framed) -> Response:
    """A model's newest samples."""
    return frame.show("samples.html", view=page_of(frame.hub, model))


@router.get("/samples/{sample}/picture")
def picture(sample: KeyPath, frame: Framed) -> Response:
    """A sample's input that is an image, as PNG; 404 without any."""
    found = pictures.picture_of(store.arrays(frame.hub, store.get(frame.hub, sample)).inputs)
    if found is None:
        raise NotFoundError(f"sample {sample} has no picture", subject=sample)
    return Response(found, media_type="image/png", headers=HEADERS)

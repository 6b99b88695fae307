"""A model's samples with their answers and labels, their pictures and their sounds."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from cloud_hub.api.params import KeyPath
from cloud_hub.dashboard.rendering import HEADERS, Framed
from cloud_hub.dashboard.views.samples import page_of, shown_as
from cloud_hub.errors import NotFoundError
from cloud_hub.samples import pictures, sounds, store
from fleet.api.types import KEY_LIMIT

router = APIRouter(include_in_schema=False)


@router.get("/models/{model}/samples")
def show(model: KeyPath, frame: Framed) -> Response:
    """A model's newest samples."""
    return frame.show("samples.html", view=page_of(frame.hub, model))


@router.get("/samples/{sample}/picture")
def picture(sample: KeyPath, frame: Framed, large: bool = False) -> Response:
    """A sample's input that is an image, as PNG; 404 without any."""
    side = pictures.LARGE if large else pictures.SIDE
    found = pictures.picture_of(store.arrays(frame.hub, store.get(frame.hub, sample)).inputs, side)
    if found is None:
        raise NotFoundError(f"sample {sample} has no picture", subject=sample)
    return Response(found, media_type="image/png", headers=HEADERS)


@router.get("/samples/{sample}/sound")
def sound(
    sample: KeyPath, frame: Framed, name: Annotated[str, Query(alias="input", max_length=KEY_LIMIT)] = ""
) -> Response:
    """A sample's input that the model's policy calls sound, as WAV; 404 for any other."""
    row = store.get(frame.hub, sample)
    rates = shown_as(frame.hub, row.model).sound
    found = sounds.sound_of(store.arrays(frame.hub, row).inputs, name, rates)
    if found is None:
        raise NotFoundError(
            f"sample {sample} has no such sound", subject=sample, hint="see samples.sound in its policy"
        )
    return Response(found, media_type="audio/wav", headers=HEADERS)

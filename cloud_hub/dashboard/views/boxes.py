"""The ground for boxes: a sample's picture, and boxes to begin with. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from cloud_hub.samples import pictures
from cloud_hub.samples.box_units import Unit, as_label
from cloud_hub.samples.parquet import Arrays
from fleet.tasks import Task
from fleet.tasks.detection import Detections

TAKEN = 50  # boxes of a device to begin with, the best; of a label all, or whoever changes one would lose the others
LONGEST = 30_000  # characters of a label: 300 boxes and some


class Drawing(Struct, frozen=True, kw_only=True):
    """A picture of `width` × `height` pixels to draw on; `covered` are the sides of the plane that its file stands for.

    `unit` is what the label's numbers count: pixels, or shares of width and height. `start` are boxes as a label has
    them, as JSON, with whose they are in `start_words`; both empty without any.
    """

    width: int
    height: int
    covered: tuple[int, int]
    unit: Unit
    classes: list[tuple[int, str]]
    start: str
    start_words: str


def in_words(unit: Unit | None, said: str, model: str) -> str:
    """Return the page's words about the unit, or how to set it."""
    if unit is None:
        setting = f'fleet model change {model} --policy \'{{"samples": {{"boxes": "pixels"}}}}\''
        return f"No answer tells whether boxes count pixels or shares, so none can be drawn; say it by: {setting}."
    known = "as the model's policy says" if said else "as devices have answered"
    named = "pixels of the picture" if unit == "pixels" else "shares of its width and height"
    return f"The numbers of a box are {named}, {known}."


def drawing_of(task: Task[Any], arrays: Arrays, unit: Unit, found: Detections | None, label: Any) -> Drawing | None:
    """Return the drawing on which boxes of a sample are drawn; None where it has no picture.

    Args:
        task: a detection.
        arrays: the sample's.
        unit: of the model's boxes.
        found: the device's detections.
        label: the one that the sample has, as the task keeps it, or None. It comes before the device's detections.
    """
    extent = pictures.extent_of(arrays.inputs)
    if extent is None:
        return None
    known = label if isinstance(label, list) else None
    start = known if known is not None else as_label(found, len(task.class_names), TAKEN) if found is not None else []
    whose = "the label" if known is not None else "what the device found"
    return Drawing(
        width=extent.width,
        height=extent.height,
        covered=extent.covered,
        unit=unit,
        classes=list(enumerate(task.class_names)),
        start=msgspec.json.encode(start).decode() if start else "",
        start_words=whose if start else "",
    )

"""A detector's boxes as labels count them: pixels of the picture or shares of its sides. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from cloud_hub.samples.answers import device_answer
from cloud_hub.samples.parquet import Arrays
from fleet.protocol.errors import MalformedError
from fleet.tasks import Task
from fleet.tasks.detection import Detections

Unit = Literal["pixels", "share"]
LARGEST_SHARE = 2.0  # boxes may reach over the edge, by their own size at most
MOST = 300  # boxes of a label


def found_by(task: Task[Any], arrays: Arrays) -> Detections | None:
    """Return the device's detections in a sample; None where its answer cannot be read."""
    try:
        return device_answer(task, arrays)
    except MalformedError:
        return None


def unit_of(said: Unit | Literal[""], answers: Iterable[Detections | None]) -> Unit | None:
    """The unit of a model's boxes: as its policy says, else as most answers' corners tell; None where nothing does.

    One device that answers nonsense must not change what everybody's labels mean.
    """
    if said:
        return said
    largest = [float(np.abs(found.boxes).max()) for found in answers if found is not None and len(found.boxes)]
    if not largest:
        return None
    beyond = sum(one > LARGEST_SHARE for one in largest)
    return "pixels" if 2 * beyond > len(largest) else "share"


def as_label(found: Detections, classes: int, most: int) -> list[Mapping[str, Any]]:
    """The best boxes as a label has them; without those of classes that have no name, which no label may have.

    Args:
        found: best first.
        classes: how many have a name.
        most: boxes that are taken.
    """
    taken: list[Mapping[str, Any]] = [
        {"box": [float(f"{corner:.6g}") for corner in box], "class": int(kind)}
        for box, kind in zip(found.boxes.tolist(), found.classes.tolist(), strict=True)
        if box[0] <= box[2] and box[1] <= box[3] and 0 <= kind < classes
    ]
    return taken[:most]

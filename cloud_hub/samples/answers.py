"""A sample's answer, as the model's task reads it. Pure."""

from __future__ import annotations

from typing import Any

from cloud_hub.samples.parquet import Arrays
from fleet.protocol.tensors import from_array
from fleet.tasks import Task


def device_answer(task: Task[Any], arrays: Arrays) -> Any | None:
    """Return the device's own answer in a sample; None where it kept none.

    Raises:
        MalformedError: its outputs cannot be read, or are not those of the task.
    """
    answers = task.answers({array.name: from_array(array) for array in arrays.outputs})
    return answers[0] if answers else None

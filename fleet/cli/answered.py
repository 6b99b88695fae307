"""The answers of a device and the cloud to a sample, as tables show them: a class and a confidence where the task has
them, nothing where it has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.protocol.task import NO_CLASS

if TYPE_CHECKING:
    from fleet.api.samples import SampleInfo
    from fleet.cli.output import Column


def class_of(prediction: int | None) -> int | None:
    """A predicted class; None where the answer is no class, as a regression's, or there is no answer."""
    return None if prediction is None or prediction == NO_CLASS else prediction


def confidence_of(sample: SampleInfo) -> float | None:
    """None where the task says no confidence, which samples keep as 0."""
    return sample.confidence if sample.confidence or class_of(sample.prediction) is not None else None


ANSWERED: list[Column] = [
    ("confidence", confidence_of),
    ("edge said", lambda sample: class_of(sample.prediction)),
    ("cloud said", lambda sample: class_of(sample.cloud_prediction)),
]

"""Samples, their labels, and the snapshots made of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue

from fleet.api.base import Page, RequestModel, ResponseModel
from fleet.api.types import Key, Text, check_value

MAX_LABELS = 100_000  # of one request


def check_label(label: JsonValue) -> JsonValue:
    """Return a label within bounds; ValueError for null and for what `check_value` refuses."""
    if label is None:
        raise ValueError("it is null, which is no label")
    return check_value(label)


class SampleLabel(RequestModel):
    """The truth about one sample, in the form of the model's task: a class by its number or name, a list of classes,
    one or several values, 1 for an anomaly, text, a list of `{"box": [x1, y1, x2, y2], "class": …}`, or the task's own.
    """

    id: Key
    label: Annotated[JsonValue, AfterValidator(check_label)]


class Labels(RequestModel):
    """Labels of samples, and their author: `by` is a person or a tool."""

    labels: Annotated[list[SampleLabel], Field(max_length=MAX_LABELS)]
    by: Text = "operator"


class WrittenLabels(ResponseModel):
    """The number of labels that were stored."""

    labelled: int
    by: str = ""


class SampleInfo(ResponseModel):
    """One recorded input, without its arrays. `label` is as the model's task keeps it, classes by number."""

    id: str
    model: str
    device_id: str = ""
    release: int = 0
    variant: str = ""
    reason: str = ""
    at: float = 0.0
    received_at: float = 0.0
    confidence: float = 0.0
    prediction: int = 0
    cloud_prediction: int | None = None
    label: JsonValue = None
    labelled_by: str = ""
    labelled_at: float | None = None


class RankedSample(SampleInfo):
    """A sample to label: `worth` orders them. How likely the model is `wrong` about it (an order, no probability), and
    how `unlike` it is to what has a label or comes before it; both in [0, 1], and `worth` is their product."""

    worth: float = 0.0
    wrong: float = 0.0
    unlike: float = 0.0


class RankedSamples(ResponseModel):
    """Samples in the order in which to label them. Of `candidates` samples without a label that were looked at,
    `repeats` were near repeats of others; `unread` had lost their data, have other inputs, or were too large. The
    `random` ones were left out: labels of the hardest of them alone would give a wrong accuracy of the model. Only
    samples from after `since` (Unix seconds) were looked at; null for all."""

    items: list[RankedSample]
    candidates: int = 0
    repeats: int = 0
    random: int = 0
    unread: int = 0
    since: float | None = None


class SampleArray(ResponseModel):
    """A tensor; `data` holds its values row by row, `datatype` is an Open Inference Protocol name."""

    name: str
    datatype: str
    shape: list[int]
    data: list[JsonValue]


class SampleDetail(SampleInfo):
    """A sample with its arrays."""

    inputs: list[SampleArray] = []
    outputs: list[SampleArray] = []


class SamplePage(Page[SampleInfo]):
    """Samples in the order of their ids."""


class DeletedSample(ResponseModel):
    """A sample whose data is gone."""

    id: str
    deleted: bool = True


class NewSnapshot(RequestModel):
    """Of which model."""

    model: Key


class SnapshotInfo(ResponseModel):
    """An immutable dataset, named by the hash of its content."""

    id: str
    model: str
    path: str = ""
    samples: int = 0
    labelled: int = 0
    size_bytes: int = 0
    created_at: float = 0.0
    created_by: str = ""


class SnapshotPage(Page[SnapshotInfo]):
    """Every snapshot, newest first."""

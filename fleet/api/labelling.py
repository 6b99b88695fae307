"""Samples as tasks for people who label outside of the hub."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fleet.api.base import RequestModel, ResponseModel
from fleet.api.types import Key

MOST_TASKS = 200  # of one request

BoxUnit = Literal["", "pixels", "share"]
Shown = Literal["image", "sound", "series", "table", "text"]


class WantedTasks(RequestModel):
    """The samples of `model` that are asked for, by id. `boxes` is the unit of a detection's boxes as an earlier answer
    said it, so that all tasks of an export have the same. `words`: only the inputs as text are wanted."""

    model: Key
    ids: Annotated[list[Key], Field(max_length=MOST_TASKS)]
    boxes: BoxUnit = ""
    words: bool = False


class LabelTask(ResponseModel):
    """A sample as a person sees it: as its `kind` says an `image` or `sound` (data URIs), a `series` over time by
    channel, a `table` of named values, or `text`, which is also there where there are further inputs.

    `cut`: the text does not hold all values. `box` is what the picture's width and height count in a label's boxes;
    null where no box can be drawn. `answer` is the device's answer in words, or as JSON a label would be.
    """

    id: str
    kind: Shown = "text"
    image: str = ""
    sound: str = ""
    series: dict[str, list[float | None]] = {}
    table: dict[str, str] = {}
    text: str = ""
    cut: bool = False
    box: tuple[float, float] | None = None
    answer: str = ""


class LabelTasks(ResponseModel):
    """Samples in the order in which they were asked for, and what a label of them is by the model's `task`: its
    `classes`, or how many `values` it has. `left` are those that were too much for one answer; ids that are in neither
    list are gone. `boxes` is the unit of boxes; empty where nothing tells it."""

    task: str = ""
    classes: list[str] = []
    values: int = 1
    boxes: BoxUnit = ""
    items: list[LabelTask] = []
    left: list[str] = []

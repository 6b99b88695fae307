"""Models: the names that applications ask for."""

from __future__ import annotations

from typing import Annotated, Literal

from fleet.api.base import Answer, Page, Request
from fleet.api.types import Document, Key, Name, ReleaseNumber, Settings
from fleet.api.wire import Wire
from fleet.protocol.manifest import Tensor


class NewModel(Request):
    """A model; `recipe` trains it, `policy` holds retrain, gate and drift settings."""

    name: Name
    recipe: Key = ""
    policy: Settings = {}


class ModelChanges(Request):
    """What `PATCH` may change; what is null or left out stays, an empty `recipe` takes it away.

    `min_release` raises the floor, `policy` is merged by its first level. `interface_from`: the release whose interface
    holds from now on, where releases disagree.
    """

    recipe: Key | None = None
    policy: Settings = {}
    min_release: ReleaseNumber | None = None
    interface_from: ReleaseNumber | None = None


class ModelInfo(Answer):
    """A model. `releases` maps a status to the numbers of the releases that have it.

    `disputed` are releases that disagree on the interface: nothing is published before one is chosen. `interface_from`
    is the one that was.
    """

    name: str
    recipe: str = ""
    next_release: int = 1
    min_release: int = 1
    sketch_id: str = ""
    policy: Document = {}
    created_at: float
    releases: dict[str, list[int]] = {}
    disputed: list[int] = []
    interface_from: int | None = None


class ModelInterface(Answer):
    """What every release of a model keeps, and the release that fixes it; `task` with its settings, in words.

    `preprocess` are the kinds of steps before the model, each with the tensors it takes; their fitted constants belong
    to the release.
    """

    release: int
    inputs: list[Annotated[Tensor, Wire(Tensor)]]
    outputs: list[Annotated[Tensor, Wire(Tensor)]]
    labels: list[str] = []
    sketch_id: str = ""
    task: str = ""
    preprocess: list[str] = []


class ShareOfRight(Answer):
    """A share of right answers with its 95 % interval, in [0, 1]: of `samples` labelled ones from `hours` hours, each
    of one device."""

    share: float
    low: float
    high: float
    samples: int
    hours: int


class AnswersByLabels(Answer):
    """How right a release's answers are by people's labels, and whether deferring to the cloud pays.

    `device` is of randomly drawn samples. `asked_device` and `asked_cloud` are of those that the cloud answered, too:
    `compared` ones, of which `only_device` and `only_cloud` were answered right by one alone. Null where there are too
    few. `verdict` is of the cloud's answers against the device's, `reason` says it in words.
    """

    release: int
    device: ShareOfRight | None = None
    asked_device: ShareOfRight | None = None
    asked_cloud: ShareOfRight | None = None
    compared: int = 0
    only_device: int = 0
    only_cloud: int = 0
    verdict: Literal["better", "worse", "not enough evidence"] = "not enough evidence"
    reason: str = ""


class ModelDetail(ModelInfo):
    """A model with its interface, null until a release fixes it, and how right its default releases' answers are by
    labels; empty where the task is no classification."""

    interface: ModelInterface | None = None
    answers: list[AnswersByLabels] = []


class ModelPage(Page[ModelInfo]):
    """All models by name."""

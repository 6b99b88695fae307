"""Models: the names that applications ask for."""

from __future__ import annotations

from typing import Annotated

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


class ModelDetail(ModelInfo):
    """A model with its interface; null until a release fixes it."""

    interface: ModelInterface | None = None


class ModelPage(Page[ModelInfo]):
    """All models by name."""

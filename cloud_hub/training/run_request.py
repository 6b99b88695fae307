"""The request for a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloud_hub.samples.dataset import Dataset
from cloud_hub.training.checking import Contract
from cloud_hub.training.recipe import LoadedRecipe
from model_compiler.inputs.dataset import Array

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class RunRequest:
    """A request to train. `progress(step, fraction)` may raise to stop the run.

    `contract` is the one with the applications of an existing model: its names and classes outrank the recipe's.
    `start` holds the weights of the release before by network and name (none of a network whose weights cannot be
    read), `released` the most precise model file that devices have of it; empty without such a release.
    """

    loaded: LoadedRecipe
    out: Path
    seed: int = 0
    snapshot: Dataset | None = None
    swap: tuple[int, int] | None = None
    contract: Contract | None = None
    start: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    released: bytes = b""
    progress: Progress = lambda step, fraction: None

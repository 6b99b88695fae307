"""Training runs of a model, side by side: retrains, and the trials of searches."""

from __future__ import annotations

from typing import Literal

from fleet.api.base import Page, ResponseModel
from fleet.api.jobs import JobState


class RunGate(ResponseModel):
    """The gate's findings on `labels` held-out human labels: the accuracy of the new model, and of release `release`
    before it; null where there was none, or nothing was measured."""

    new: float | None = None
    old: float | None = None
    labels: int | None = None
    release: int | None = None


class RunInfo(ResponseModel):
    """One training run: a retrain job, or one trial of a search.

    `hyper` are the numbers that were given in place of the recipe's own; the others are the recipe's, whose hash is in
    `recipe`, empty where no release came of the run. `metric` and `value` are a trial's score on rows that it was not
    trained on, or the verdict of the release's first variant for devices with its 95 % `interval`; empty and null where
    nothing was measured. `best`: no other trial of its search has a better score.
    """

    id: str
    job: str
    kind: Literal["retrain", "trial"]
    trial: int | None = None
    state: JobState
    at: float
    took_s: float | None = None
    snapshot: str = ""
    seed: int = 0
    hyper: dict[str, float] = {}
    recipe: str = ""
    metric: str = ""
    value: float | None = None
    interval: tuple[float, float] | None = None
    gate: RunGate = RunGate()
    release: int | None = None
    best: bool = False
    error: str = ""


class RunPage(Page[RunInfo]):
    """A model's runs, those of the newest jobs first; `next` is a job's id."""

"""Jobs: persistent long work, and the retrain job of a model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fleet.api.base import Page, RequestModel, ResponseModel
from fleet.api.hyper import HyperOptions, Space, check_space
from fleet.api.rollouts import RolloutOptions
from fleet.api.types import INT32, Document, Key, Seconds

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class RetrainOptions(RequestModel):
    """`snapshot` empty: a new one. With `channel`, the release becomes its auditor and is rolled out there;
    `rollout` holds the rollout's options (`stages`, …). `max_bytes`: what a device with the release before may fetch
    for the new one, its manifest included. `hyper`: numbers in place of the recipe's own."""

    snapshot: Key = ""
    channel: Key = ""
    rollout: RolloutOptions | None = None
    seed: Annotated[int, Field(ge=0, le=INT32)] = 0
    max_bytes: Annotated[int | None, Field(ge=1, le=INT32)] = None
    hyper: HyperOptions | None = None


class TuneOptions(RequestModel):
    """A search over the hyper-parameters in `space`: `trials` in all, `parallel` at a time, none begun after `for_s`
    seconds. All have the same snapshot (empty: a new one) and seed. With `halving` so many begin with a ninth of their
    epochs, the best third of them goes on with a third, and the best third of those with all. With `retrain`, the best
    is trained with these options, but with its own numbers and the search's snapshot and seed."""

    space: Annotated[Space, AfterValidator(check_space)]
    trials: Annotated[int, Field(ge=1, le=200)] = 20
    parallel: Annotated[int, Field(ge=1, le=16)] = 1
    halving: bool = False
    for_s: Seconds | None = None
    snapshot: Key = ""
    seed: Annotated[int, Field(ge=0, le=INT32)] = 0
    retrain: RetrainOptions | None = None


class NewJob(RequestModel):
    """A job; `payload` are the options of its kind, which is `retrain`."""

    kind: Key
    model: Key
    payload: RetrainOptions = RetrainOptions()


class JobInfo(ResponseModel):
    """A job with its step, its progress (0 to 1) and, at the end, its result or error.

    `payload` are the options of its kind, `retrain` or `tune`; a job of another version's kind shows its own. `result`
    is what the job has done so far, in plain JSON: a retrain's `snapshot`, `release`, `rollout`, and what its gates
    measured; a search's `trials`, the `best` of them, and `retrain`, the job that trains it.
    """

    id: str
    kind: str
    model: str = ""
    payload: Annotated[RetrainOptions | TuneOptions | Document, Field(union_mode="left_to_right")] = RetrainOptions()
    state: JobState
    step: str = ""
    progress: float = 0.0
    result: Document = {}
    error: str = ""
    attempt: int = 0
    max_attempts: int = 3
    cancel_requested: bool = False
    created_at: float = 0.0
    created_by: str = ""
    started_at: float | None = None
    ended_at: float | None = None


class JobPage(Page[JobInfo]):
    """Jobs, newest first."""


class JobLog(ResponseModel):
    """The output of a job's code, at most the last MiB; empty where it printed nothing, or is still running."""

    job: str
    text: str = ""

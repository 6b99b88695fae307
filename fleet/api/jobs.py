"""Jobs: persistent long work, and the retrain job of a model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fleet.api.base import Answer, Page, Request
from fleet.api.rollouts import RolloutOptions
from fleet.api.types import INT32, Document, Key

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class RetrainOptions(Request):
    """`snapshot` empty: a new one. With `channel`, the release becomes its auditor and is rolled out there;
    `rollout` holds the rollout's options (`stages`, …). `max_bytes`: what a device with the release before may fetch
    for the new one, its manifest included."""

    snapshot: Key = ""
    channel: Key = ""
    rollout: RolloutOptions | None = None
    seed: Annotated[int, Field(ge=0, le=INT32)] = 0
    max_bytes: Annotated[int | None, Field(ge=1, le=INT32)] = None


class NewJob(Request):
    """A job; `payload` are the options of its kind, which is `retrain`."""

    kind: Key
    model: Key
    payload: RetrainOptions = RetrainOptions()


class JobInfo(Answer):
    """A job with its step, its progress (0 to 1) and, at the end, its result or error.

    `payload` are the options of its kind, which is `retrain`; a job of another version's kind shows its own. `result`
    is what the job has done so far, in plain JSON: a retrain's `snapshot`, `release`, `rollout`, and what its gates
    measured.
    """

    id: str
    kind: str
    model: str = ""
    payload: Annotated[RetrainOptions | Document, Field(union_mode="left_to_right")] = RetrainOptions()
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


class JobLog(Answer):
    """What a job's code has printed, at most the last MiB; empty where it printed nothing, or runs still."""

    job: str
    text: str = ""

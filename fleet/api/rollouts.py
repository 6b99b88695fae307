"""Rollouts: staged, guarded updates of a channel."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fleet.api.base import Answer, Page, Request
from fleet.api.types import Key, ReleaseNumber, Seconds, Text
from fleet.api.wire import Given, Wire
from fleet.rollouts.forecast import Forecast
from fleet.rollouts.guard import GuardPolicy, Verdict
from fleet.rollouts.machine import Order as Order
from fleet.rollouts.machine import Plan, Progress
from fleet.rollouts.machine import State as RolloutState

MAX_STAGES = 100
MAX_GROUPS = 64

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class RolloutOptions(Request):
    """Stages in per cent, rising to 100. `guard` is what an operator tolerates, `soak_s` how long each stage must stay
    healthy; with `groups` (labels `key=value`, or group ids), only devices in one of them can belong to the cohort."""

    stages: Annotated[list[Percent], Field(max_length=MAX_STAGES)] = [10.0, 50.0, 100.0]
    guard: Annotated[GuardPolicy, Given(GuardPolicy)] = Field(default_factory=GuardPolicy)
    soak_s: Seconds = 0.0
    groups: Annotated[list[Key], Field(max_length=MAX_GROUPS)] = []


class NewRollout(RolloutOptions):
    """Which model goes to which release on which channel, and how."""

    model: Key
    release: ReleaseNumber
    channel: Key


class RolloutOrder(Request):
    """The body of an order; the reason goes into the rollout's history. With `stage` (counted from 1), the order is
    refused once the rollout is at another one: an order that is sent twice does not end the next stage, too."""

    reason: Text = ""
    stage: Annotated[int, Field(ge=1, le=MAX_STAGES)] | None = None


class RolloutInfo(Answer):
    """A rollout with its progress and evidence. `stage` counts from 1, `stages` are per cent."""

    id: str
    model: str
    channel: str
    release: int
    from_release: int
    state: RolloutState
    attempt: int = 1
    salt: str = ""
    plan: Annotated[Plan, Wire(Plan)]
    progress: Annotated[Progress, Wire(Progress)]
    reason: str = ""
    created_at: float = 0.0
    created_by: str = ""
    updated_at: float = 0.0
    ended_at: float | None = None
    stage: int = 1
    stages: list[float] = []
    exposed_devices: int = 0
    verdict: Annotated[Verdict, Wire(Verdict, name="Judgement")] | None = None


class CreatedRollout(RolloutInfo):
    """A new rollout, how many devices cannot follow it, and what an operator should know (`RolloutForecast`)."""

    cannot_follow: int = 0
    notes: list[str] = []


class RolloutForecast(Answer):
    """What a rollout would take, and what it lacks: nothing has been started."""

    model: str
    channel: str
    release: int
    from_release: int
    forecast: Annotated[Forecast, Wire(Forecast)]


class RolloutPage(Page[RolloutInfo]):
    """All rollouts, newest first."""


class RolloutEventDetail(Answer):
    """Why it happened."""

    reason: str = ""


class RolloutEventInfo(Answer):
    """One step in a rollout's life, in words."""

    id: int
    rollout: str
    at: float
    event: str
    detail: RolloutEventDetail = RolloutEventDetail()


class RolloutEventPage(Page[RolloutEventInfo]):
    """What happened, in order."""

"""Rollouts: staged, guarded updates of a channel."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fleet.api.base import Page, RequestModel, ResponseModel
from fleet.api.types import INT32, Key, Moment, ReleaseNumber, Seconds, Text
from fleet.api.wire import Given, Wire
from fleet.rollouts.forecast import Forecast
from fleet.rollouts.guard import GuardVerdict
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.machine import Order as Order
from fleet.rollouts.machine import Plan, Progress
from fleet.rollouts.machine import State as RolloutState
from fleet.rollouts.remaining import Remaining
from fleet.rollouts.schedule import LARGEST_FACTOR, LARGEST_RATE, LEAST_RATE, USUAL_MOST
from fleet.rollouts.shadow import ShadowPlan, ShadowVerdict

MAX_STAGES = 100
MAX_GROUPS = 64

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class RolloutOptions(RequestModel):
    """Stages in per cent, rising to 100. `guard` is what an operator tolerates, `soak_s` how long each stage must stay
    healthy; with `groups` (labels `key=value`, or group ids), only devices in one of them can belong to the cohort.
    With `shadow`, devices compare the release with the one that they serve before anybody is served it."""

    stages: Annotated[list[Percent], Field(max_length=MAX_STAGES)] = [10.0, 50.0, 100.0]
    guard: Annotated[GuardPolicy, Given(GuardPolicy)] = Field(default_factory=GuardPolicy)
    soak_s: Seconds = 0.0
    groups: Annotated[list[Key], Field(max_length=MAX_GROUPS)] = []
    shadow: Annotated[ShadowPlan, Given(ShadowPlan)] | None = None


class RolloutRate(RequestModel):
    """Devices per minute: `per_minute`, times `factor` for every `after` that have committed it, to `most` at most."""

    per_minute: Annotated[float, Field(ge=LEAST_RATE, le=LARGEST_RATE, allow_inf_nan=False)]
    factor: Annotated[float, Field(ge=1, le=LARGEST_FACTOR, allow_inf_nan=False)] = 1.0
    after: Annotated[int, Field(ge=1, le=INT32)] = 1
    most: Annotated[float, Field(ge=LEAST_RATE, le=LARGEST_RATE, allow_inf_nan=False)] = USUAL_MOST


class RolloutSchedule(RequestModel):
    """The times at which devices are asked to join: from `start_at` on; only in the `window`, such as `Mon-Fri
    22:00-04:00`, in the local time of `time_zone` (an IANA name); at most at `rate`. At `expires_at` a rollout that has
    not finished is aborted. Moments are Unix seconds. Without a window the channel's usual one holds, and so does its
    rate, unless `usual` is false."""

    start_at: Moment | None = None
    expires_at: Moment | None = None
    window: Text = ""
    time_zone: Key = "UTC"
    rate: RolloutRate | None = None
    usual: bool = True


class NewRollout(RolloutOptions):
    """A request to roll a model's release out on a channel. Without a `schedule` the channel's usual one holds; a
    channel without one orders each stage at once, at any hour."""

    model: Key
    release: ReleaseNumber
    channel: Key
    schedule: RolloutSchedule | None = None


class RolloutOrder(RequestModel):
    """The body of an order; the reason goes into the rollout's history. With `stage` (counted from 1; 0 is the shadow
    stage), the order is refused once the rollout is at another one: an order that is sent twice does not end the next
    stage, too."""

    reason: Text = ""
    stage: Annotated[int, Field(ge=0, le=MAX_STAGES)] | None = None


class RolloutInfo(ResponseModel):
    """A rollout with its progress and evidence. `stage` counts from 1 (0: the shadow stage), `stages` are per cent.
    `waits` says why its schedule lets nothing happen now, or at which pace it does. `shadow` is the shadow stage's
    judgement. `remaining` is said of a rollout that is asked for by itself."""

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
    waits: str = ""
    verdict: Annotated[GuardVerdict, Wire(GuardVerdict, name="Judgement")] | None = None
    shadow: Annotated[ShadowVerdict, Wire(ShadowVerdict)] | None = None
    remaining: Annotated[Remaining, Wire(Remaining)] | None = None


class CreatedRollout(RolloutInfo):
    """A new rollout, how many devices cannot follow it, and what an operator should know (`RolloutForecast`)."""

    cannot_follow: int = 0
    notes: list[str] = []


class RolloutForecast(ResponseModel):
    """A forecast of a rollout's duration, with the conditions that it lacks: nothing has been started."""

    model: str
    channel: str
    release: int
    from_release: int
    forecast: Annotated[Forecast, Wire(Forecast)]


class RolloutPage(Page[RolloutInfo]):
    """Rollouts, newest first."""


class RolloutEventDetail(ResponseModel):
    """The reason for an event of a rollout."""

    reason: str = ""


class RolloutEventInfo(ResponseModel):
    """One step in a rollout's life, in words."""

    id: int
    rollout: str
    at: float
    event: str
    detail: RolloutEventDetail = RolloutEventDetail()


class RolloutEventPage(Page[RolloutEventInfo]):
    """A page of a rollout's events, the oldest first."""

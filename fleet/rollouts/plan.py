"""A rollout's values: its plan, its progress, and the decisions about it; `machine` decides."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field, structs, to_builtins

from fleet.protocol.names import check_name
from fleet.rollouts.errors import PlanError
from fleet.rollouts.guard import GuardVerdict
from fleet.rollouts.guard_policy import load_policy
from fleet.rollouts.schedule import Ordered, Schedule
from fleet.rollouts.shadow import ShadowPlan, ShadowVerdict
from fleet.rollouts.stages import Stage

State = Literal["scheduled", "running", "paused", "holding", "finished", "halted", "aborted"]
Order = Literal["pause", "resume", "abort", "retry", "approve", "promote"]
LIVE: tuple[State, ...] = ("scheduled", "running", "paused", "holding")
ENDED: frozenset[str] = frozenset(("finished", "halted", "aborted"))


class Plan(Struct, frozen=True, kw_only=True):
    """The plan that was asked for; it never changes. `policy` is a `GuardPolicy` as a document, so that one that a
    newer hub wrote is read again, and refused, at every step. Without a `schedule` each stage is ordered at once. With
    `shadow`, a stage in which nobody is served the release comes before the others."""

    id: str
    model: str
    channel: str
    release: int
    from_release: int
    stages: tuple[Stage, ...]
    salt: str
    groups: tuple[str, ...] = ()
    policy: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None
    shadow: ShadowPlan | None = None

    @property
    def shares_ppm(self) -> tuple[int, ...]:
        """The stages' shares."""
        return tuple(stage.share_ppm for stage in self.stages)


class Progress(Struct, frozen=True, kw_only=True):
    """The progress of a rollout. `stage` counts from 0; `stage_times` are the moments at which the stages entered so
    far began; `exposed` is the largest cohort by assignment so far; `approved` is how many stages an operator has
    approved; `awaits_approval` says that it holds for nothing else; `begun` is false until its start time comes;
    `ordered` is the share that a schedule has let through so far, None where each stage is ordered at once; times are
    Unix seconds. While `shadowing`, the first stage has not begun, and `shadow` is the judgement that counts; it keeps
    its value when the stage ends."""

    state: State = "running"
    stage: int = 0
    attempt: int = 1
    started_at: float = 0.0
    stage_times: tuple[float, ...] = ()
    deadline_from: float = 0.0
    settled_at: float | None = None
    pairs_before: int = 0
    exposed: int = 0
    approved: int = 0
    awaits_approval: bool = False
    reason: str = ""
    ended_at: float | None = None
    verdict: GuardVerdict | None = None
    begun: bool = True
    ordered: Ordered | None = None
    shadowing: bool = False
    shadow: ShadowVerdict | None = None

    @property
    def number(self) -> int:
        """The stage as people count: 0 while shadowing, then from 1."""
        return 0 if self.shadowing else self.stage + 1


class Publish(Struct, frozen=True, kw_only=True, tag="publish"):
    """Publish the channel with this rollout at this share and attempt; `shadow`: it serves nobody, and is compared."""

    share_ppm: int
    attempt: int
    shadow: bool = False


class Promote(Struct, frozen=True, kw_only=True, tag="promote"):
    """Publish the channel without the rollout and with `release` as the default."""

    release: int


class Clear(Struct, frozen=True, kw_only=True, tag="clear"):
    """Publish the channel without the rollout: the cohort returns to the default."""


Action = Publish | Promote | Clear


class Event(Struct, frozen=True, kw_only=True):
    """One step in words: `name` is a stable word, `reason` a sentence."""

    name: str
    reason: str = ""


class Decision(Struct, frozen=True, kw_only=True):
    """The new progress, what to publish, and what to write into the rollout's history."""

    progress: Progress
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()


def checked_plan(plan: Plan) -> Plan:
    """The plan with every setting of its policy, once it is one that can be carried out.

    Raises:
        PlanError, PolicyError, MalformedError (a name).
    """
    check_name(plan.model, "model")
    check_name(plan.channel, "channel")
    if plan.release == plan.from_release:
        why = f"channel {plan.channel!r} already runs release {plan.release} of {plan.model!r}"
        raise PlanError(why, subject=plan.model)
    if not plan.stages or not plan.salt:
        raise PlanError("a rollout needs stages and a salt")
    return structs.replace(plan, policy=to_builtins(load_policy(plan.policy)))


def share_of(plan: Plan, progress: Progress) -> int:
    """The share of the channel that has its orders, in parts per million."""
    if progress.ordered is not None:
        return progress.ordered.share_ppm
    return plan.stages[progress.stage].share_ppm


def all_ordered(plan: Plan, progress: Progress) -> bool:
    """Tell whether the whole stage has its orders."""
    return share_of(plan, progress) >= plan.stages[progress.stage].share_ppm

"""The shadow stage's steps in a rollout's state machine: it comes before the first stage, and serves nobody."""

from __future__ import annotations

from msgspec import structs

from fleet.rollouts import pacing
from fleet.rollouts.errors import PolicyError
from fleet.rollouts.guard_policy import GuardPolicy, load_policy
from fleet.rollouts.plan import Decision, Event, Plan, Progress
from fleet.rollouts.shadow import ShadowFacts, ShadowPlan, judge_shadow
from fleet.rollouts.steps import end, hold, running, wanted


def start(plan: Plan, shadow: ShadowPlan, now: float) -> Decision:
    """Begin with the shadow stage, or wait for the start time. Window and rate are for devices that are to serve."""
    progress = structs.replace(pacing.beginning(plan, now), shadowing=True)
    event = _started(plan, shadow)
    if not progress.begun:
        event = Event(name="scheduled", reason=pacing.waits(plan, progress, now))
    return Decision(progress=progress, actions=(wanted(plan, progress),), events=(event,))


def _started(plan: Plan, shadow: ShadowPlan) -> Event:
    share = f"{100 * shadow.cpu_share:g} % of a processor core each"
    reason = f"shadow stage: devices of {plan.channel} compare release {plan.release} beside what they serve, {share}"
    return Event(name="started", reason=reason)


def _begin(plan: Plan, shadow: ShadowPlan, progress: Progress, now: float) -> Decision:
    """Begin once the start time has come; one that is paused waits for its operator."""
    if progress.state == "paused" or pacing.is_early(plan, now):
        return Decision(progress=progress)
    begun = structs.replace(
        running(structs.replace(progress, begun=True)), started_at=now, stage_times=(now,), deadline_from=now
    )
    return Decision(progress=begun, actions=(wanted(plan, begun),), events=(_started(plan, shadow),))


def decide(plan: Plan, progress: Progress, facts: ShadowFacts, now: float) -> Decision:
    """Take one step of the shadow stage; `progress` is live."""
    if facts.withdrawn:
        return end(progress, "halted", facts.withdrawn, now)
    if facts.superseded:
        return end(progress, "aborted", facts.superseded, now)
    if expired := pacing.has_expired(plan, now):
        return end(progress, "aborted", expired, now, event="expired")
    assert plan.shadow is not None
    if not progress.begun:
        return _begin(plan, plan.shadow, progress, now)
    try:
        policy = load_policy(plan.policy)
    except PolicyError as error:
        return hold(progress, str(error))
    verdict = judge_shadow(plan.shadow, policy, facts, now - progress.stage_times[0])
    heard_from = max(progress.deadline_from, min(facts.deaf_until, now))  # who cannot be heard brings no evidence
    progress = structs.replace(progress, shadow=verdict, deadline_from=heard_from)
    if verdict.judgement == "harmful":
        return end(progress, "halted", verdict.reason, now)
    if progress.state == "paused":
        return Decision(progress=progress)
    if verdict.judgement == "healthy":
        return begin_stages(plan, progress, verdict.reason, now, ())
    return _wait(policy, plan.shadow, progress, verdict.reason, now)


def begin_stages(plan: Plan, progress: Progress, why: str, now: float, events: tuple[Event, ...]) -> Decision:
    """Begin the first stage, as its schedule orders it; devices' reports count from here on."""
    begun = structs.replace(
        running(progress), shadowing=False, stage_times=(now,), deadline_from=now, settled_at=None, verdict=None
    )
    share = plan.stages[0].share_ppm / 10_000
    event = Event(name="advanced", reason=f"stage 1 of {len(plan.stages)}: {share:g} % of {plan.channel}; {why}")
    return Decision(progress=begun, actions=(wanted(plan, begun),), events=(*events, event))


def _wait(policy: GuardPolicy, shadow: ShadowPlan, progress: Progress, reason: str, now: float) -> Decision:
    """Without evidence by the deadline, which counts from the end of the stage's least time, it holds or halts."""
    waits_s = shadow.seconds + policy.evidence_deadline_s
    if progress.state == "holding":
        return hold(progress, reason)
    if now - progress.deadline_from < waits_s:
        return Decision(progress=progress)
    why = f"no evidence within {waits_s:g} s: {reason}"
    return end(progress, "halted", why, now) if policy.on_no_evidence == "halt" else hold(progress, why)

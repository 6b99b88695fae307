"""The rollout's state machine: a pure function from what is known to what happens next.

    running ─┬─ shadow stage, healthy ───────────> first stage
             ├─ healthy, all committed, soaked ──> next stage … ──> finished   (promote)
             ├─ the same, but not approved yet ─> holding ── approve ──> running
             ├─ promote by hand ────────────────> next stage … ──> finished   (promote)
             ├─ harmful ────────────────────────> halted                       (clear)
             ├─ no evidence by the deadline ────> holding ── evidence ──> running
             ├─ pause ──> paused ── resume ──> running
             └─ abort, or expiry ──> aborted                                   (clear)
    scheduled ── its start time ──> running

Paused, holding and scheduled rollouts do not grow, and none does outside of its window, but the guard halts each of
them at any time. Finished, halted and aborted are final: nothing acts after them.

Use: store `Decision.progress` first, then carry out `Decision.actions`. After a crash in between,
`wanted(plan, progress)` says what the channel must hold; publishing it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from fleet.rollouts import guard, pacing, schedule, shadowing
from fleet.rollouts.errors import PolicyError
from fleet.rollouts.evidence import PairedEvidence
from fleet.rollouts.facts import DeviceFact as DeviceFact
from fleet.rollouts.facts import Joined, Known
from fleet.rollouts.facts import RolloutFacts as RolloutFacts
from fleet.rollouts.guard import GuardVerdict
from fleet.rollouts.guard_policy import GuardPolicy, load_policy
from fleet.rollouts.matching import Matched
from fleet.rollouts.orders import apply as apply
from fleet.rollouts.plan import ENDED as ENDED
from fleet.rollouts.plan import LIVE as LIVE
from fleet.rollouts.plan import Action as Action
from fleet.rollouts.plan import Clear as Clear
from fleet.rollouts.plan import Decision as Decision
from fleet.rollouts.plan import Event as Event
from fleet.rollouts.plan import Order as Order
from fleet.rollouts.plan import Plan as Plan
from fleet.rollouts.plan import Progress as Progress
from fleet.rollouts.plan import Promote as Promote
from fleet.rollouts.plan import Publish as Publish
from fleet.rollouts.plan import State as State
from fleet.rollouts.plan import all_ordered
from fleet.rollouts.plan import checked_plan as checked_plan
from fleet.rollouts.shadow import ShadowFacts
from fleet.rollouts.steps import advance, end, hold, running
from fleet.rollouts.steps import wanted as wanted

MOST_ODD = 10  # devices that one step names in the history


def start(plan: Plan, now: float) -> Decision:
    """Begin with the shadow stage, if there is one, else with the first, or wait for the start time."""
    if plan.shadow is not None:
        return shadowing.start(plan, plan.shadow, now)
    progress = pacing.beginning(plan, now)
    event = _started(plan)
    if not progress.begun:
        event = Event(name="scheduled", reason=pacing.waits(plan, progress, now))
    return Decision(progress=progress, actions=(wanted(plan, progress),), events=(event,))


def _started(plan: Plan) -> Event:
    where = f"stage 1 of {len(plan.stages)}: {plan.stages[0].share_ppm / 10_000:g} % of {plan.channel}"
    return Event(name="started", reason=where)


def decide(plan: Plan, progress: Progress, facts: Known | ShadowFacts, now: float) -> Decision:
    """One step. Ended rollouts stay as they are; an unreadable policy holds, whatever the facts.

    Args:
        facts: what is known of the stage that the rollout is at.
    """
    if progress.state in ENDED:
        return Decision(progress=progress)
    progress = _until(progress, now)
    if isinstance(facts, ShadowFacts):
        return shadowing.decide(plan, progress, facts, now)
    progress = structs.replace(progress, exposed=max(progress.exposed, facts.size))
    if facts.withdrawn:
        return end(progress, "halted", facts.withdrawn, now)
    if facts.superseded:
        return end(progress, "aborted", facts.superseded, now)
    if expired := pacing.has_expired(plan, now):
        return end(progress, "aborted", expired, now, event="expired")
    if not progress.begun:
        return _begin(plan, progress, now)
    try:
        policy = load_policy(plan.policy)
    except PolicyError as error:
        return hold(progress, str(error))
    progress = structs.replace(progress, deadline_from=max(progress.deadline_from, min(facts.deaf_until, now)))
    verdict = _judge(plan, progress, policy, facts, now)
    heard = facts.heard_for(policy.silent_after_s, now)
    decision = _after(plan, structs.replace(progress, verdict=verdict), policy, now, heard=heard)
    odd = () if verdict.judgement == "harmful" else _odd(plan, progress.verdict, verdict)
    decision = structs.replace(decision, events=(*odd, *decision.events))
    return _grown(plan, decision, facts, now) if heard else decision


def _begin(plan: Plan, progress: Progress, now: float) -> Decision:
    """Begin once the start time has come; one that is paused waits for its operator."""
    if progress.state == "paused" or pacing.is_early(plan, now):
        return Decision(progress=progress)
    begun = structs.replace(
        running(structs.replace(progress, begun=True)), started_at=now, stage_times=(now,), deadline_from=now
    )
    return Decision(progress=begun, events=(_started(plan),))


def _grown(plan: Plan, decision: Decision, facts: Known, now: float) -> Decision:
    """The decision with what the schedule lets through now."""
    grown = pacing.grow(plan, decision.progress, facts, now)
    if grown == decision.progress:
        return decision
    return structs.replace(decision, progress=grown, actions=(wanted(plan, grown),))


def _odd(plan: Plan, before: GuardVerdict | None, verdict: GuardVerdict) -> tuple[Event, ...]:
    """Return an event for each device that alone shows harm now, or that others contradict: each is judged by itself,
    and decides for no other."""
    known = before.paired if before is not None else PairedEvidence()
    stay = f"keep it on the release before: fleet device set DEVICE --pin {plan.model}={plan.from_release}"
    doubt = "find out why (fleet device diagnose DEVICE), or revoke it: fleet device revoke DEVICE"
    harmed = [device for device in verdict.paired.odd if device not in known.odd][:MOST_ODD]
    doubted = [device for device in verdict.paired.contradicted if device not in known.contradicted]
    return (
        *(Event(name="device-harmed", reason=f"{device} loses on its own inputs; {stay}") for device in harmed),
        *(
            Event(name="device-contradicted", reason=f"others say otherwise of inputs that {device} judged; {doubt}")
            for device in doubted
        ),
    )


def _after(plan: Plan, progress: Progress, policy: GuardPolicy, now: float, *, heard: bool) -> Decision:
    """Decide by the verdict that `progress` holds; only harm counts where devices were not `heard` for a while."""
    verdict = progress.verdict
    assert verdict is not None
    if verdict.judgement == "harmful":
        return end(progress, "halted", verdict.reason, now)
    settled = verdict.cohort.pending == 0 and verdict.cohort.committed > 0 and all_ordered(plan, progress)
    if settled and progress.settled_at is None:
        progress = structs.replace(progress, settled_at=now)
    if progress.state == "paused" or not heard:
        return Decision(progress=progress)
    if verdict.judgement == "healthy" and settled:
        return _healthy(plan, progress, policy, verdict, now)
    return _wait(plan, policy, progress, verdict, now)


def _until(progress: Progress, now: float) -> Progress:
    """The progress with no moment after `now`: one that a clock wrote which ran ahead would hold everything up."""
    settled = progress.settled_at
    return structs.replace(
        progress,
        started_at=min(progress.started_at, now),
        stage_times=tuple(min(at, now) for at in progress.stage_times),
        deadline_from=min(progress.deadline_from, now),
        settled_at=None if settled is None else min(settled, now),
        ordered=None if progress.ordered is None else schedule.until(progress.ordered, now),
    )


def newly_silent(plan: Plan, progress: Progress, facts: Known | ShadowFacts, now: float) -> Sequence[str]:
    """Return the devices whose `silenced_at` is now, for the keeper of the facts; none under an unreadable policy,
    nor before anybody is served."""
    if isinstance(facts, ShadowFacts):
        return ()
    try:
        policy = load_policy(plan.policy)
    except PolicyError:
        return ()
    return facts.silenced(joined(plan, progress, now), policy.silent_after_s, now)


def joined(plan: Plan, progress: Progress, now: float) -> Joined:
    """Return when devices were assigned to the rollout's attempt."""
    told = _until(progress, now)
    shares, times = plan.shares_ppm, told.stage_times
    if told.ordered is not None:
        shares = tuple(wave.share_ppm for wave in told.ordered.waves)
        times = tuple(wave.at for wave in told.ordered.waves)
    closed = pacing.closed_hours(plan, told.stage_times[0], now)
    return Joined(salt=plan.salt, shares_ppm=shares, times=times, started_at=told.stage_times[0], closed=closed)


def _judge(plan: Plan, progress: Progress, policy: GuardPolicy, facts: Known, now: float) -> GuardVerdict:
    cohort, arms = facts.tally(joined(plan, progress, now), policy.silent_after_s, now)
    pairs = facts.matched or Matched() if policy.matches else facts.counted(policy.margin)
    found = guard.judge(
        policy,
        cohort,
        pairs,
        arms,
        pairs_before=progress.pairs_before,
        latencies=facts.latencies(),
        assigned=facts.met,
    )
    if facts.mute and found.judgement == "not-enough-evidence":
        return structs.replace(found, reason=f"{found.reason}; no audited pair can come: {facts.mute}")
    return found


def _healthy(plan: Plan, progress: Progress, policy: GuardPolicy, verdict: GuardVerdict, now: float) -> Decision:
    settled_at = progress.settled_at if progress.settled_at is not None else now
    soaked = now - settled_at >= plan.stages[progress.stage].soak_s
    if soaked and policy.approval and progress.approved <= progress.stage:
        stage = f"stage {progress.stage + 1} of {len(plan.stages)} is healthy and waits for approval"
        command = f"fleet rollout approve {plan.id} --stage {progress.stage + 1}"
        return hold(progress, f"{stage} ({command}); {verdict.reason}", awaits_approval=True)
    events: tuple[Event, ...] = ()
    if progress.state == "holding":
        progress = running(progress)
        events = (Event(name="evidence-arrived", reason=verdict.reason),)
    if not soaked or not pacing.is_open(plan, now):
        return Decision(progress=progress, events=events)
    return advance(plan, progress, verdict.reason, now, events)


def _wait(plan: Plan, policy: GuardPolicy, progress: Progress, verdict: GuardVerdict, now: float) -> Decision:
    if not all_ordered(plan, progress):
        return Decision(progress=progress if progress.state == "running" else running(progress))
    reason, cohort = verdict.reason, verdict.cohort
    if verdict.judgement == "healthy":
        reason = f"{cohort.pending} of {cohort.present} devices have neither committed nor failed"
    if progress.state == "holding":
        return hold(progress, reason)
    if pacing.open_s(plan, progress.deadline_from, now) < policy.evidence_deadline_s:
        return Decision(progress=progress)
    one_of_several = verdict.judgement == "healthy" and cohort.pending < min(2, cohort.present)
    if policy.on_no_evidence == "halt" and not one_of_several:
        return end(progress, "halted", f"no evidence within {policy.evidence_deadline_s:g} s: {reason}", now)
    return hold(progress, f"no evidence within {policy.evidence_deadline_s:g} s: {reason}")

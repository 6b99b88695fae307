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
from fleet.rollouts.errors import PolicyError, TransitionError
from fleet.rollouts.evidence import Counted
from fleet.rollouts.facts import DeviceFact as DeviceFact
from fleet.rollouts.facts import Facts as Facts
from fleet.rollouts.facts import Joined, Known
from fleet.rollouts.guard import GuardPolicy, Verdict
from fleet.rollouts.matching import Matched, OfOld
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
from fleet.rollouts.plan import make_plan as make_plan
from fleet.rollouts.shadow import ShadowFacts
from fleet.rollouts.steps import end, hold, running
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
        policy = guard.load_policy(plan.policy)
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


def _odd(plan: Plan, before: Verdict | None, verdict: Verdict) -> tuple[Event, ...]:
    """What is said of devices that alone show harm now: each is judged by itself, and decides for no other."""
    known = before.paired.odd if before is not None else ()
    fresh = [device for device in verdict.paired.odd if device not in known][:MOST_ODD]
    stay = f"keep it on the release before: fleet device set DEVICE --pin {plan.model}={plan.from_release}"
    return tuple(Event(name="device-harmed", reason=f"{device} loses on its own inputs; {stay}") for device in fresh)


def _after(plan: Plan, progress: Progress, policy: GuardPolicy, now: float, *, heard: bool) -> Decision:
    """What follows from the verdict that `progress` holds; only harm, where devices were not `heard` for a while."""
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


def apply(
    plan: Plan, progress: Progress, order: Order, now: float, *, reason: str = "", stage: int | None = None
) -> Decision:
    """An operator's order. `resume` of a holding rollout waits for evidence once more; `retry`
    raises the attempt, so that devices that rolled back try again, and forgets the old evidence. `approve` lets the
    stage end once it is healthy; `promote` ends it now, whatever is known, and needs a reason.

    Args:
        stage: the one that is meant, counted from 1 (0: the shadow stage): an order that is given twice does not end
            the next stage, too.

    Raises:
        TransitionError: the state does not allow it, or there is nothing to approve, or no reason to promote, or the
            rollout is at another stage by now.
    """
    allowed = {"pause": ("scheduled", "running", "holding"), "resume": ("paused", "holding")}.get(order, LIVE)
    if progress.state not in allowed:
        raise TransitionError(
            f"rollout {plan.id} is {progress.state}: {order} needs one that is {' or '.join(allowed)}",
            subject=plan.id,
            hint="create a new rollout" if progress.state in ENDED else "",
        )
    if stage is not None and stage != progress.number:
        raise TransitionError(
            f"rollout {plan.id} is at stage {progress.number} by now: {order} was meant for stage {stage}",
            subject=plan.id,
            hint=f"look first: fleet rollout status {plan.id}",
        )
    why = reason or f"asked to {order}"
    if order == "abort":
        return end(progress, "aborted", why, now)
    if order == "pause":
        paused = structs.replace(progress, state="paused", reason=why, awaits_approval=False)
        return Decision(progress=paused, events=(Event(name="paused", reason=why),))
    if order == "approve":
        return _approve(plan, progress, why, now)
    if order in ("retry", "promote"):
        _refuse_early(plan, progress, order, now)
    going = structs.replace(running(progress), deadline_from=now)
    if order == "resume":
        return Decision(progress=going, events=(Event(name="resumed", reason=why),))
    if order == "promote":
        if not reason.strip():
            raise TransitionError("promoting by hand needs a reason", subject=plan.id, hint="add --reason WHY")
        advance = shadowing.begin_stages if progress.shadowing else _advance
        return advance(plan, going, why, now, (Event(name="promoted", reason=why),))
    return _retry(plan, going, why, now)


def _refuse_early(plan: Plan, progress: Progress, order: Order, now: float) -> None:
    """Raise TransitionError for an order that would ask devices for what its schedule does not let through now."""
    if progress.begun and progress.shadowing:
        return  # nobody serves the release yet
    if progress.begun and order == "promote" and progress.stage + 1 < len(plan.stages):
        return  # the next stage is ordered as the schedule lets it
    if progress.begun and pacing.is_open(plan, now) and (order == "retry" or all_ordered(plan, progress)):
        return
    why = pacing.waits(plan, structs.replace(progress, state="running"), now) or "it has not ordered all of its devices"
    hint = "do so then; abort and pause work at any time"
    raise TransitionError(f"rollout {plan.id} cannot {order} now: it {why}", subject=plan.id, hint=hint)


def _retry(plan: Plan, progress: Progress, why: str, now: float) -> Decision:
    """Evidence belongs to an attempt, and devices that were silent get a new chance to speak up."""
    failed = 0 if progress.verdict is None else progress.verdict.cohort.failed
    fresh = structs.replace(
        progress,
        attempt=progress.attempt + 1,
        stage_times=(now,) * len(progress.stage_times),
        settled_at=None,
        pairs_before=0,
        approved=min(progress.approved, progress.stage),
        verdict=None,
        shadow=None if progress.shadowing else progress.shadow,
        ordered=None if progress.ordered is None else schedule.again(progress.ordered, failed, now),
    )
    event = Event(name="retried", reason=f"attempt {fresh.attempt}: {why}")
    return Decision(progress=fresh, actions=(wanted(plan, fresh),), events=(event,))


def _approve(plan: Plan, progress: Progress, why: str, now: float) -> Decision:
    """The stage may end once it is healthy; one that waits for nothing else goes on at the next step."""
    if progress.shadowing:
        what = f"rollout {plan.id} is at its shadow stage, which waits for no approval"
        raise TransitionError(what, subject=plan.id, hint="fleet rollout promote ends it by hand")
    if not plan.policy.get("approval"):
        raise TransitionError(f"rollout {plan.id} asks for no approval", subject=plan.id, hint="fleet rollout promote")
    approved = structs.replace(progress, approved=progress.stage + 1)
    if progress.state == "holding":
        approved = structs.replace(running(approved), deadline_from=now)
    where = f"stage {progress.stage + 1} of {len(plan.stages)}"
    return Decision(progress=approved, events=(Event(name="approved", reason=f"{where}: {why}"),))


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
    """Ids of the devices whose `silenced_at` is now, for whoever keeps the facts; none under an unreadable policy, nor
    before anybody is served."""
    if isinstance(facts, ShadowFacts):
        return ()
    try:
        policy = guard.load_policy(plan.policy)
    except PolicyError:
        return ()
    return facts.silenced(joined(plan, progress, now), policy.silent_after_s, now)


def joined(plan: Plan, progress: Progress, now: float) -> Joined:
    """When devices were assigned to the rollout's attempt."""
    told = _until(progress, now)
    shares, times = plan.shares_ppm, told.stage_times
    if told.ordered is not None:
        shares = tuple(wave.share_ppm for wave in told.ordered.waves)
        times = tuple(wave.at for wave in told.ordered.waves)
    closed = pacing.closed_hours(plan, told.stage_times[0], now)
    return Joined(salt=plan.salt, shares_ppm=shares, times=times, started_at=told.stage_times[0], closed=closed)


def _judge(plan: Plan, progress: Progress, policy: GuardPolicy, facts: Known, now: float) -> Verdict:
    cohort, arms = facts.tally(joined(plan, progress, now), policy.silent_after_s, now)
    pairs, of_old = _pairs(policy, facts)
    found = guard.judge(
        policy, cohort, pairs, arms, pairs_before=progress.pairs_before, latencies=facts.latencies(),
        assigned=facts.met, of_old=of_old,
    )  # fmt: skip
    if facts.mute and found.judgement == "not-enough-evidence":
        return structs.replace(found, reason=f"{found.reason}; no audited pair can come: {facts.mute}")
    return found


def _pairs(policy: GuardPolicy, facts: Known) -> tuple[Counted, OfOld | None]:
    """The pairs that the policy asks for; those of two devices twice, by the one and by the other."""
    if not policy.matches:
        return facts.counted(policy.margin), None
    found = facts.matched or Matched()
    return found.of_new(policy.margin), found.of_old(policy.margin)


def _healthy(plan: Plan, progress: Progress, policy: GuardPolicy, verdict: Verdict, now: float) -> Decision:
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
    return _advance(plan, progress, verdict.reason, now, events)


def _advance(plan: Plan, progress: Progress, why: str, now: float, events: tuple[Event, ...]) -> Decision:
    """The next stage, or the end after the last one."""
    if progress.stage + 1 == len(plan.stages):
        ended = structs.replace(progress, state="finished", reason=why, ended_at=now)
        event = Event(name="finished", reason=why)
        return Decision(progress=ended, actions=(Promote(release=plan.release),), events=(*events, event))
    advanced = structs.replace(
        progress,
        stage=progress.stage + 1,
        stage_times=(*progress.stage_times, now),
        deadline_from=now,
        settled_at=None,
        pairs_before=progress.pairs_before if progress.verdict is None else progress.verdict.paired.seen,
    )
    share = plan.stages[advanced.stage].share_ppm
    where = f"stage {advanced.stage + 1} of {len(plan.stages)}: {share / 10_000:g} % of {plan.channel}"
    event = Event(name="advanced", reason=f"{where}; {why}")
    return Decision(progress=advanced, actions=(wanted(plan, advanced),), events=(*events, event))


def _wait(plan: Plan, policy: GuardPolicy, progress: Progress, verdict: Verdict, now: float) -> Decision:
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

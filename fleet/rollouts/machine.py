"""The rollout's state machine: a pure function from what is known to what happens next.

    running ─┬─ healthy, all committed, soaked ──> next stage … ──> finished   (promote)
             ├─ the same, but not approved yet ─> holding ── approve ──> running
             ├─ promote by hand ────────────────> next stage … ──> finished   (promote)
             ├─ harmful ────────────────────────> halted                       (clear)
             ├─ no evidence by the deadline ────> holding ── evidence ──> running
             ├─ pause ──> paused ── resume ──> running
             └─ abort ──> aborted                                              (clear)

Paused and holding rollouts do not grow, but the guard still halts them. Finished, halted and
aborted are final: nothing acts after them.

Use: store `Decision.progress` first, then carry out `Decision.actions`. After a crash in between,
`wanted(plan, progress)` says what the channel must hold; publishing it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct, field, structs, to_builtins

from fleet.protocol.names import check_name
from fleet.rollouts import guard
from fleet.rollouts.cohorts import stage_of
from fleet.rollouts.errors import PlanError, PolicyError, TransitionError
from fleet.rollouts.facts import DeviceFact as DeviceFact
from fleet.rollouts.facts import Facts as Facts
from fleet.rollouts.facts import latencies, silenced, tally
from fleet.rollouts.guard import GuardPolicy, Verdict
from fleet.rollouts.stages import Stage

State = Literal["running", "paused", "holding", "finished", "halted", "aborted"]
Order = Literal["pause", "resume", "abort", "retry", "approve", "promote"]
LIVE: tuple[State, ...] = ("running", "paused", "holding")
MOST_ODD = 10  # devices that one step names in the history
ENDED: frozenset[str] = frozenset(("finished", "halted", "aborted"))


class Plan(Struct, frozen=True, kw_only=True):
    """What was asked for; never changes. `policy` is a `GuardPolicy` as a document, so that one
    that a newer hub wrote is read again, and refused, at every step."""

    id: str
    model: str
    channel: str
    release: int
    from_release: int
    stages: tuple[Stage, ...]
    salt: str
    groups: tuple[str, ...] = ()
    policy: dict[str, Any] = field(default_factory=dict)

    @property
    def shares_ppm(self) -> tuple[int, ...]:
        """The stages' shares."""
        return tuple(stage.share_ppm for stage in self.stages)


class Progress(Struct, frozen=True, kw_only=True):
    """Where a rollout stands. `stage` counts from 0; `stage_times` holds when each stage that was
    entered began; `exposed` is the largest cohort by assignment so far; `approved` is how many stages an operator has
    approved; `awaits_approval` says that it holds for nothing else; times are Unix seconds."""

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
    verdict: Verdict | None = None


class Publish(Struct, frozen=True, kw_only=True, tag="publish"):
    """Publish the channel with this rollout at this share and attempt."""

    share_ppm: int
    attempt: int


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


def make_plan(
    *,
    id: str,
    model: str,
    channel: str,
    release: int,
    from_release: int,
    stages: tuple[Stage, ...],
    salt: str,
    groups: tuple[str, ...] = (),
    policy: dict[str, Any] | GuardPolicy | None = None,
) -> Plan:
    """A checked plan.

    Raises:
        PlanError, PolicyError, MalformedError (a name).
    """
    check_name(model, "model")
    check_name(channel, "channel")
    if release == from_release:
        raise PlanError(f"channel {channel!r} already runs release {release} of {model!r}", subject=model)
    if not stages or not salt:
        raise PlanError("a rollout needs stages and a salt")
    document = to_builtins(policy) if isinstance(policy, GuardPolicy) else dict(policy or {})
    full = to_builtins(guard.load_policy(document))
    return Plan(
        id=id,
        model=model,
        channel=channel,
        release=release,
        from_release=from_release,
        stages=stages,
        salt=salt,
        groups=groups,
        policy=full,
    )


def start(plan: Plan, now: float) -> Decision:
    """Begin with the first stage."""
    progress = Progress(started_at=now, stage_times=(now,), deadline_from=now)
    share = plan.stages[0].share_ppm
    event = Event(name="started", reason=f"stage 1 of {len(plan.stages)}: {share / 10_000:g} % of {plan.channel}")
    return Decision(progress=progress, actions=(Publish(share_ppm=share, attempt=1),), events=(event,))


def wanted(plan: Plan, progress: Progress) -> Action:
    """What the channel must hold for this progress; carrying it out twice changes nothing."""
    if progress.state == "finished":
        return Promote(release=plan.release)
    if progress.state in ENDED:
        return Clear()
    return Publish(share_ppm=plan.stages[progress.stage].share_ppm, attempt=progress.attempt)


def decide(plan: Plan, progress: Progress, facts: Facts, now: float) -> Decision:
    """One step. Ended rollouts stay as they are; an unreadable policy holds, whatever the facts."""
    if progress.state in ENDED:
        return Decision(progress=progress)
    progress = _until(progress, now)
    progress = structs.replace(progress, exposed=max(progress.exposed, len(facts.cohort)))
    if facts.withdrawn:
        return _end(progress, "halted", facts.withdrawn, now)
    if facts.superseded:
        return _end(progress, "aborted", facts.superseded, now)
    try:
        policy = guard.load_policy(plan.policy)
    except PolicyError as error:
        return _hold(progress, str(error))
    progress = structs.replace(progress, deadline_from=max(progress.deadline_from, min(facts.deaf_until, now)))
    verdict = _judge(plan, progress, policy, facts, now)
    heard = facts.heard_for(policy.silent_after_s, now)
    decision = _after(plan, structs.replace(progress, verdict=verdict), policy, now, heard=heard)
    odd = () if verdict.judgement == "harmful" else _odd(plan, progress.verdict, verdict)
    return structs.replace(decision, events=(*odd, *decision.events))


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
        return _end(progress, "halted", verdict.reason, now)
    settled = verdict.cohort.pending == 0 and verdict.cohort.committed > 0
    if settled and progress.settled_at is None:
        progress = structs.replace(progress, settled_at=now)
    if progress.state == "paused" or not heard:
        return Decision(progress=progress)
    if verdict.judgement == "healthy" and settled:
        return _healthy(plan, progress, policy, verdict, now)
    return _wait(policy, progress, verdict, now)


def apply(
    plan: Plan, progress: Progress, order: Order, now: float, *, reason: str = "", stage: int | None = None
) -> Decision:
    """An operator's order. `resume` of a holding rollout waits for evidence once more; `retry`
    raises the attempt, so that devices that rolled back try again, and forgets the old evidence. `approve` lets the
    stage end once it is healthy; `promote` ends it now, whatever is known, and needs a reason.

    Args:
        stage: the one that is meant, counted from 1: an order that is given twice does not end the next stage, too.

    Raises:
        TransitionError: the state does not allow it, or there is nothing to approve, or no reason to promote, or the
            rollout is at another stage by now.
    """
    allowed = {"pause": ("running", "holding"), "resume": ("paused", "holding")}.get(order, LIVE)
    if progress.state not in allowed:
        raise TransitionError(
            f"rollout {plan.id} is {progress.state}: {order} needs one that is {' or '.join(allowed)}",
            subject=plan.id,
            hint="create a new rollout" if progress.state in ENDED else "",
        )
    if stage is not None and stage != progress.stage + 1:
        raise TransitionError(
            f"rollout {plan.id} is at stage {progress.stage + 1} by now: {order} was meant for stage {stage}",
            subject=plan.id,
            hint=f"look first: fleet rollout status {plan.id}",
        )
    why = reason or f"asked to {order}"
    if order == "abort":
        return _end(progress, "aborted", why, now)
    if order == "pause":
        paused = structs.replace(progress, state="paused", reason=why, awaits_approval=False)
        return Decision(progress=paused, events=(Event(name="paused", reason=why),))
    if order == "approve":
        return _approve(plan, progress, why, now)
    running = structs.replace(_running(progress), deadline_from=now)
    if order == "resume":
        return Decision(progress=running, events=(Event(name="resumed", reason=why),))
    if order == "promote":
        if not reason.strip():
            raise TransitionError("promoting by hand needs a reason", subject=plan.id, hint="add --reason WHY")
        return _advance(plan, running, why, now, (Event(name="promoted", reason=why),))
    return _retry(plan, running, why, now)


def _retry(plan: Plan, progress: Progress, why: str, now: float) -> Decision:
    """Evidence belongs to an attempt, and devices that were silent get a new chance to speak up."""
    fresh = structs.replace(
        progress,
        attempt=progress.attempt + 1,
        stage_times=(now,) * len(progress.stage_times),
        settled_at=None,
        pairs_before=0,
        approved=min(progress.approved, progress.stage),
        verdict=None,
    )
    event = Event(name="retried", reason=f"attempt {fresh.attempt}: {why}")
    return Decision(progress=fresh, actions=(wanted(plan, fresh),), events=(event,))


def _approve(plan: Plan, progress: Progress, why: str, now: float) -> Decision:
    """The stage may end once it is healthy; one that waits for nothing else goes on at the next step."""
    if not plan.policy.get("approval"):
        raise TransitionError(f"rollout {plan.id} asks for no approval", subject=plan.id, hint="fleet rollout promote")
    approved = structs.replace(progress, approved=progress.stage + 1)
    if progress.state == "holding":
        approved = structs.replace(_running(approved), deadline_from=now)
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
    )


def newly_silent(plan: Plan, progress: Progress, facts: Facts, now: float) -> tuple[str, ...]:
    """Ids of the devices whose `silenced_at` is now, for whoever keeps the facts; none under an unreadable policy."""
    try:
        policy = guard.load_policy(plan.policy)
    except PolicyError:
        return ()
    progress = _until(progress, now)
    return silenced(facts, _joined(plan, progress), progress.stage_times[0], policy.silent_after_s, now)


def _joined(plan: Plan, progress: Progress) -> Callable[[DeviceFact], float]:
    """When a device of the cohort was assigned to the rollout's attempt."""

    def joined(fact: DeviceFact) -> float:
        stage = stage_of(plan.salt, fact.device_id, plan.shares_ppm)
        last = len(progress.stage_times) - 1
        return progress.stage_times[last if stage is None else min(stage, last)]

    return joined


def _judge(plan: Plan, progress: Progress, policy: GuardPolicy, facts: Facts, now: float) -> Verdict:
    cohort, arms = tally(facts, _joined(plan, progress), progress.stage_times[0], policy.silent_after_s, now)
    pairs = {fact.device_id: fact.pairs for fact in (*facts.cohort, *facts.left)}
    return guard.judge(
        policy, cohort, pairs, arms, pairs_before=progress.pairs_before, latencies=latencies(facts), assigned=len(pairs)
    )


def _healthy(plan: Plan, progress: Progress, policy: GuardPolicy, verdict: Verdict, now: float) -> Decision:
    settled_at = progress.settled_at if progress.settled_at is not None else now
    soaked = now - settled_at >= plan.stages[progress.stage].soak_s
    if soaked and policy.approval and progress.approved <= progress.stage:
        stage = f"stage {progress.stage + 1} of {len(plan.stages)} is healthy and waits for approval"
        command = f"fleet rollout approve {plan.id} --stage {progress.stage + 1}"
        return _hold(progress, f"{stage} ({command}); {verdict.reason}", awaits_approval=True)
    events: tuple[Event, ...] = ()
    if progress.state == "holding":
        progress = _running(progress)
        events = (Event(name="evidence-arrived", reason=verdict.reason),)
    if not soaked:
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


def _wait(policy: GuardPolicy, progress: Progress, verdict: Verdict, now: float) -> Decision:
    reason, cohort = verdict.reason, verdict.cohort
    if verdict.judgement == "healthy":
        reason = f"{cohort.pending} of {cohort.present} devices have neither committed nor failed"
    if progress.state == "holding":
        return _hold(progress, reason)
    if now - progress.deadline_from < policy.evidence_deadline_s:
        return Decision(progress=progress)
    one_of_several = verdict.judgement == "healthy" and cohort.pending < min(2, cohort.present)
    if policy.on_no_evidence == "halt" and not one_of_several:
        return _end(progress, "halted", f"no evidence within {policy.evidence_deadline_s:g} s: {reason}", now)
    return _hold(progress, f"no evidence within {policy.evidence_deadline_s:g} s: {reason}")


def _hold(progress: Progress, reason: str, *, awaits_approval: bool = False) -> Decision:
    """Hold, which goes into the history once for each thing that is waited for; the reason is the present one."""
    if progress.state == "paused":
        return Decision(progress=structs.replace(progress, reason=reason))
    held = structs.replace(progress, state="holding", reason=reason, awaits_approval=awaits_approval)
    known = progress.state == "holding" and progress.awaits_approval is awaits_approval
    event = Event(name="awaiting-approval" if awaits_approval else "holding", reason=reason)
    return Decision(progress=held, events=() if known else (event,))


def _running(progress: Progress) -> Progress:
    return structs.replace(progress, state="running", reason="", awaits_approval=False)


def _end(progress: Progress, state: Literal["halted", "aborted"], reason: str, now: float) -> Decision:
    ended = structs.replace(progress, state=state, reason=reason, ended_at=now, awaits_approval=False)
    return Decision(progress=ended, actions=(Clear(),), events=(Event(name=state, reason=reason),))

"""An operator's orders to a rollout: pause, resume, retry, approve, promote, abort. Pure."""

from __future__ import annotations

from msgspec import structs

from fleet.rollouts import pacing, schedule, shadowing
from fleet.rollouts.errors import TransitionError
from fleet.rollouts.plan import ENDED, LIVE, Decision, Event, Order, Plan, Progress, all_ordered
from fleet.rollouts.steps import advance, end, running, wanted


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
        step = shadowing.begin_stages if progress.shadowing else advance
        return step(plan, going, why, now, (Event(name="promoted", reason=why),))
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

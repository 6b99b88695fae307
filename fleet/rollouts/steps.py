"""Steps that every stage of a rollout takes, the shadow stage too: what the channel must hold, to hold, go on, end."""

from __future__ import annotations

from typing import Literal

from msgspec import structs

from fleet.rollouts.plan import (
    ENDED,
    Action,
    Clear,
    Decision,
    Event,
    Plan,
    Progress,
    Promote,
    Publish,
    State,
    share_of,
)


def wanted(plan: Plan, progress: Progress) -> Action:
    """Return the state that the channel must have for this progress; carrying it out twice changes nothing."""
    if progress.state == "finished":
        return Promote(release=plan.release)
    if progress.state in ENDED:
        return Clear()
    if progress.shadowing:
        return Publish(share_ppm=0, attempt=progress.attempt, shadow=progress.begun)
    return Publish(share_ppm=share_of(plan, progress), attempt=progress.attempt)


def hold(progress: Progress, reason: str, *, awaits_approval: bool = False) -> Decision:
    """Hold; the history gets an event once for each thing that is waited for, and the reason is the present one."""
    if progress.state == "paused":
        return Decision(progress=structs.replace(progress, reason=reason))
    held = structs.replace(progress, state="holding", reason=reason, awaits_approval=awaits_approval)
    known = progress.state == "holding" and progress.awaits_approval is awaits_approval
    event = Event(name="awaiting-approval" if awaits_approval else "holding", reason=reason)
    return Decision(progress=held, events=() if known else (event,))


def running(progress: Progress) -> Progress:
    """It goes on, or waits for its start again."""
    state: State = "running" if progress.begun else "scheduled"
    return structs.replace(progress, state=state, reason="", awaits_approval=False)


def end(
    progress: Progress, state: Literal["halted", "aborted"], reason: str, now: float, *, event: str = ""
) -> Decision:
    """End the rollout: the channel is published without it."""
    ended = structs.replace(progress, state=state, reason=reason, ended_at=now, awaits_approval=False)
    return Decision(progress=ended, actions=(Clear(),), events=(Event(name=event or state, reason=reason),))


def advance(plan: Plan, progress: Progress, why: str, now: float, events: tuple[Event, ...]) -> Decision:
    """Begin the next stage, or finish after the last one."""
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

"""The pace of a rollout by its schedule: its beginning, the orders that are due, or the reason why none are."""

from __future__ import annotations

from msgspec.structs import replace

from fleet.rollouts import schedule
from fleet.rollouts.calendar import Opening, in_words
from fleet.rollouts.errors import PlanError, PolicyError
from fleet.rollouts.facts import Known
from fleet.rollouts.guard_policy import load_policy
from fleet.rollouts.plan import ENDED, Plan, Progress, all_ordered, share_of
from fleet.rollouts.schedule import Ordered, RolloutPace, Schedule

LONGEST_SPREAD_S = 86_400.0  # as devices take it
BEFORE_S, MOST_BEFORE_S = 86_400.0, 366 * 86_400.0  # before the attempt that closed hours are looked for


def beginning(plan: Plan, now: float) -> Progress:
    """A rollout as it is created."""
    asked = plan.schedule
    progress = Progress(started_at=now, stage_times=(now,), deadline_from=now)
    if asked is None or not asked.paces:
        return progress
    begun = asked.start_at is None or asked.start_at <= now
    state = progress.state if begun else "scheduled"
    return replace(progress, state=state, begun=begun, ordered=Ordered())


def is_early(plan: Plan, now: float) -> bool:
    """Tell whether its start time is still to come, also for one that began by a clock that was ahead."""
    return plan.schedule is not None and plan.schedule.start_at is not None and now < plan.schedule.start_at


def is_open(plan: Plan, now: float) -> bool:
    """Tell whether its window is open."""
    return plan.schedule is None or (not is_early(plan, now) and schedule.open_now(plan.schedule, now))


def has_expired(plan: Plan, now: float) -> str:
    """Return why it is over, in words; empty when it is not."""
    asked = plan.schedule
    if asked is None or asked.expires_at is None or now < asked.expires_at:
        return ""
    return f"it has expired, at {_words(asked, asked.expires_at)}, before it had finished"


def open_s(plan: Plan, since: float, now: float) -> float:
    """Count the seconds between two moments in which its window was open."""
    if plan.schedule is None:
        return now - since
    try:
        return plan.schedule.calendar.open_s(since, now)
    except PlanError:
        return 0.0


def closed_hours(plan: Plan, started_at: float, now: float) -> tuple[Opening, ...]:
    """Return the hours in which its window was closed, of those that tell which devices are silent by now."""
    if plan.schedule is None or not plan.schedule.window:
        return ()
    since = started_at - _before_s(plan)
    try:
        return plan.schedule.calendar.closings(since, now)
    except PlanError:
        return (Opening(since, now),)


def _before_s(plan: Plan) -> float:
    """Return how many seconds before the attempt a device may have been heard last that is silent by now."""
    try:
        silent_after_s = load_policy(plan.policy).silent_after_s
    except PolicyError:
        return BEFORE_S
    return min(max(BEFORE_S, silent_after_s), MOST_BEFORE_S)


def grow(plan: Plan, progress: Progress, facts: Known, now: float) -> Progress:
    """Order the devices that are due: none outside of the window, beyond the rate, or while it does not run."""
    asked, ordered = plan.schedule, progress.ordered
    if asked is None or ordered is None or progress.state != "running" or not progress.begun:
        return progress
    if all_ordered(plan, progress) or not is_open(plan, now):
        return progress
    share = plan.stages[progress.stage].share_ppm
    if asked.rate is None:
        grown = replace(ordered, share_ppm=share)
    else:
        pace = RolloutPace(
            per_minute=asked.rate.at(_successes(progress)),
            step_s=schedule.step_s(facts.devices),
            calendar=asked.calendar,
        )
        if not schedule.due(ordered, pace, now):
            return progress
        grown = schedule.order(ordered, share, facts.places(plan.salt, ordered.share_ppm, share), pace, now)
    if grown == ordered:
        return progress
    # A stage waits for its evidence from its last order on.
    waved = schedule.with_wave(grown, progress.stage_times[-1], now)
    return replace(progress, ordered=waved, deadline_from=now, settled_at=None)


def spread_s(plan: Plan, progress: Progress, devices: int) -> int:
    """Return the seconds over which so many devices look at their orders, so that the hub can answer them; 0: at once.

    A halt must not wait for stragglers. A retry asks all devices that failed by one notice: they look over as long as
    the rate takes to pay for them.
    """
    if progress.state in ("halted", "aborted"):
        return 0
    if plan.schedule is None or plan.schedule.rate is None or progress.state in ENDED:
        return int(min(devices / schedule.LOOKS_PER_S, LONGEST_SPREAD_S))
    owed = 0.0 if progress.ordered is None else max(0.0, -progress.ordered.credit)
    paid_s = 60.0 * owed / plan.schedule.rate.at(_successes(progress))
    return int(min(max(schedule.step_s(devices), paid_s), LONGEST_SPREAD_S))


def waits(plan: Plan, progress: Progress, now: float) -> str:
    """Return why nothing is ordered now, or the pace of the orders; empty where the schedule has no part in it."""
    asked = plan.schedule
    if asked is None or progress.state in ENDED or progress.state == "paused":
        return ""
    if asked.start_at is not None and (is_early(plan, now) or not progress.begun):
        return f"waits for its start, {_words(asked, asked.start_at)}"
    if progress.shadowing:  # nobody is asked to serve, at any hour
        return ""
    if not is_open(plan, now):
        try:
            return f"waits for its window, opens {_words(asked, asked.calendar.next_open(now))}"
        except PlanError as error:
            return f"waits for a window that this hub cannot read: {error}; {error.hint}"
    if all_ordered(plan, progress) or asked.rate is None or progress.state != "running":
        return ""
    share, target = share_of(plan, progress), plan.stages[progress.stage].share_ppm
    pace = f"{asked.rate.at(_successes(progress)):g} devices per minute"
    return f"orders {pace}: {share / 10_000:g} % of {target / 10_000:g} % so far"


def _successes(progress: Progress) -> int:
    """Devices that have committed the release in this attempt."""
    if progress.verdict is None:
        return 0
    return progress.verdict.cohort.committed + progress.verdict.cohort.resting


def _words(asked: Schedule, at: float) -> str:
    try:
        return in_words(at, asked.time_zone)
    except PlanError:
        return in_words(at, "UTC")

"""The pairs and the time that a live rollout's verdict still takes, by its progress so far."""

from __future__ import annotations

from msgspec import Struct

from fleet.rollouts.errors import PolicyError
from fleet.rollouts.guard_policy import load_policy
from fleet.rollouts.machine import ENDED, Plan, Progress
from fleet.rollouts.power import pairs_needed


class Remaining(Struct, frozen=True, kw_only=True):
    """Distinct audited inputs that a verdict takes, or matched labels (`needed`, None: no number shows the margin),
    those that are still
    missing, how many came per hour in this attempt, and how long it will take so (None: nothing tells).

    The number is the one that shows a good release to be good in most cases: chance, or a release that loses a
    little, can take longer, and harm shows sooner.
    """

    needed: int | None
    missing: int | None
    per_hour: float
    seconds: float | None


def remaining(plan: Plan, progress: Progress, now: float) -> Remaining | None:
    """Return what the stage's verdict still takes; None where it does not rest on pairs, or nothing was judged yet."""
    try:
        policy = load_policy(plan.policy)
    except PolicyError:
        return None
    if progress.state in ENDED or progress.verdict is None or policy.evidence == "install":
        return None
    paired, hours = progress.verdict.paired, (now - progress.stage_times[0]) / 3600.0
    per_hour = paired.pairs / hours if hours > 0 else 0.0
    if progress.verdict.judgement == "healthy":
        return Remaining(needed=paired.pairs, missing=0, per_hour=per_hour, seconds=0.0)
    devices = max(1, paired.devices)
    needed = pairs_needed(
        margin=policy.margin,
        alpha=policy.alpha,
        devices=devices,
        matched=policy.matches,
        colluders=policy.colluders,
    )
    if needed is None:
        return Remaining(needed=None, missing=None, per_hour=per_hour, seconds=None)
    of_the_stage = policy.min_pairs - (paired.seen - progress.pairs_before)
    missing = max(needed - paired.pairs, of_the_stage, 0)
    seconds = 3600.0 * missing / per_hour if per_hour > 0 else 0.0 if missing == 0 else None
    return Remaining(needed=needed, missing=missing, per_hour=per_hour, seconds=seconds)

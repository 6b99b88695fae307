"""Rollouts in the words of the pages."""

from __future__ import annotations

from fleet.api.durations import time_span
from fleet.api.rollouts import RolloutInfo
from fleet.rollouts.machine import ENDED


def has_ended(rollout: RolloutInfo) -> bool:
    """Tell whether nothing can happen any more."""
    return rollout.state in ENDED


def awaits_approval(rollout: RolloutInfo) -> bool:
    """Tell whether the stage can wait for an operator's approval."""
    progress = rollout.progress
    asked = bool(rollout.plan.policy.get("approval")) and not has_ended(rollout) and not progress.shadowing
    return asked and progress.approved <= progress.stage


def stages_of(rollout: RolloutInfo) -> list[tuple[str, str]]:
    """Each stage's share in per cent and how it stands: done, now, open or lost."""
    last = "done" if rollout.state == "finished" else "lost" if has_ended(rollout) else "now"
    names = [(0, "shadow")] * (rollout.plan.shadow is not None)
    names += [(number, f"{share:g} %") for number, share in enumerate(rollout.stages, 1)]
    now = rollout.stage
    return [(name, "done" if number < now else last if number == now else "open") for number, name in names]


def loss_of(rollout: RolloutInfo) -> str:
    """`0.4 points (at most 1.9)`: what the new release loses on the audited pairs, net, and the bound that holds
    however often one looks; empty without pairs."""
    if rollout.verdict is None or not rollout.verdict.paired.pairs:
        return ""
    paired = rollout.verdict.paired
    now = 100 * (paired.only_old - paired.only_new) / paired.pairs
    bound = "no bound yet" if paired.loss_at_most is None else f"at most {100 * paired.loss_at_most:.1f}"
    return f"{now:.1f} points ({bound})"


def verdict_in(rollout: RolloutInfo) -> str:
    """Return when a verdict can be expected, in words; empty where nothing tells."""
    left = rollout.remaining
    if left is None:
        return ""
    if left.needed is None:
        return "no number of inputs shows so small a margin"
    if not left.missing:
        return "what it takes is here"
    pace = f"{left.missing:,} of {left.needed:,} distinct inputs are missing, {left.per_hour:,.0f} come per hour"
    return pace if left.seconds is None else f"in about {time_span(left.seconds)}: {pace}"

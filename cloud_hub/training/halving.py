"""Successive halving: all begin with few epochs, and only the best go on with more.

A rung is judged when all of it has ended, so the same seed gives the same search, however many run at a time. Each run
trains anew: learning rates follow the epochs that a run has, which those of a longer one do not. Pure.

Source: Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

KEPT = 3  # one of so many goes on, with so many times the epochs
LONGEST = 2  # rungs before the last one: below a ninth of its epochs a run says little


class Trial(NamedTuple):
    """One run of a search: its number, its numbers, and the share of their epochs that it has."""

    number: int
    hyper: dict[str, float]
    share: float = 1.0


def rungs(count: int) -> tuple[tuple[int, float], ...]:
    """Return the number of trials of each rung, and the share of its epochs: all is the last one's."""
    sizes = [count]
    while len(sizes) <= LONGEST and sizes[-1] >= KEPT:
        sizes.append(-(-sizes[-1] // KEPT))
    return tuple((size, float(KEPT) ** (place + 1 - len(sizes))) for place, size in enumerate(sizes))


def due(first: Sequence[dict[str, float]], ended: Sequence[Mapping[str, Any]]) -> list[Trial]:
    """The trials of the rung that is not over yet, those that run now among them; none after the last rung.

    Args:
        first: what the first rung tries.
        ended: trials that have, each with its `trial`, `hyper`, `share` and, unless it failed, `loss`.
    """
    rung, number = list(first), 0
    for size, share in rungs(len(first)):
        trials = [Trial(number + place, hyper, share) for place, hyper in enumerate(rung[:size])]
        known = {one["trial"]: one for one in ended}
        missing = [trial for trial in trials if trial.number not in known]
        if missing:
            return missing
        found = [(known[trial.number]["loss"], trial) for trial in trials if "loss" in known[trial.number]]
        rung = [trial.hyper for _, trial in sorted(found, key=lambda pair: (pair[0], pair[1].number))]
        number += size
    return []

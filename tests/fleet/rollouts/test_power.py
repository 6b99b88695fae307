"""The number of distinct inputs for a verdict: computed, and kept by the guard's own judgement."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.rollouts import power
from fleet.rollouts.guard import CohortHealth, judge
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.pairs import Pairs
from fleet.rollouts.power import DIFFER, pairs_needed


def judged(margin: float, devices: int, loss: float, pairs: int, rng: np.random.Generator) -> str:
    """The first verdict of one rollout on so many distinct inputs, looked at 20 times."""
    counts = np.zeros((devices, 3), int)
    policy, cohort = GuardPolicy(margin=margin), CohortHealth(present=devices, committed=devices)
    shares = [DIFFER / 2 + loss, DIFFER / 2, 1 - DIFFER - loss]
    for _ in range(20):
        counts += rng.multinomial(-(-pairs // 20 // devices), shares, size=devices)
        said = {f"d{n}": Pairs(only_old=int(a), only_new=int(b), both=int(c)) for n, (a, b, c) in enumerate(counts)}
        verdict = judge(policy, cohort, said)
        if verdict.judgement != "not-enough-evidence":
            return verdict.judgement
    return "not-enough-evidence"


@pytest.mark.parametrize(("margin", "devices"), [(0.1, 1), (0.1, 8), (0.2, 3)])
def test_with_so_many_inputs_the_guard_says_what_the_forecast_promises(margin: float, devices: int) -> None:
    pairs, rng = pairs_needed(margin=margin, alpha=0.05, devices=devices), np.random.default_rng(3)
    assert pairs is not None
    good = [judged(margin, devices, 0.0, pairs, rng) for _ in range(100)]
    bad = [judged(margin, devices, margin, pairs, rng) for _ in range(100)]
    assert good.count("healthy") >= 88 and bad.count("harmful") >= 88  # .95 promised; .88 is three sd below


def test_a_narrower_margin_takes_more_inputs_and_the_number_is_the_same_everywhere() -> None:
    wide, narrow = (pairs_needed(margin=margin, alpha=0.05, devices=3) for margin in (0.1, 0.05))
    assert wide is not None and narrow is not None and narrow > 2 * wide
    power._play.cache_clear()
    assert pairs_needed(margin=0.1, alpha=0.05, devices=3) == wide


def test_a_margin_that_no_number_shows_has_none() -> None:
    assert pairs_needed(margin=0.0005, alpha=0.05, devices=3) is None

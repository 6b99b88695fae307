"""The e-values: false alarms under continuous peeking, power, and what one odd device can do.

Simulations are vectorised over runs and use fixed seeds; the bounds leave room for three standard
errors, so a failure means that the method changed and not that luck was bad.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fleet.rollouts.collusion import colluders
from fleet.rollouts.evidence import Arms, harm_log_e, health_log_e, installs, paired
from fleet.rollouts.pairs import Pairs
from tests.support.size import sized

RUNS, STEPS = sized(2000, 20_000), 600
ALPHA = 0.05


def outcomes(p_old: float, p_new: float, seed: int, runs: int = RUNS, steps: int = STEPS) -> tuple[np.ndarray, ...]:
    """Cumulative (only_old, only_new, same), each (runs, steps): one audited pair per step."""
    u = np.random.default_rng(seed).random((runs, steps))
    old, new = u < p_old, (u >= p_old) & (u < p_old + p_new)
    return tuple(np.cumsum(x, axis=1) for x in (old, new, ~(old | new)))


def peeked_every_step(log_e: np.ndarray, alpha: float) -> float:
    """Share of runs whose e-value ever reached 1/alpha."""
    return float((log_e.max(axis=1) >= math.log(1 / alpha)).mean())


@pytest.mark.parametrize("discordance", [0.02, 0.1, 0.5])
def test_an_equal_release_is_called_harmful_at_most_alpha_of_the_time(discordance: float) -> None:
    old, new, _ = outcomes(discordance / 2, discordance / 2, seed=1)
    rate = peeked_every_step(harm_log_e(old[..., None], new[..., None]), ALPHA)
    assert rate <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_release_at_the_margin_is_called_healthy_at_most_alpha_of_the_time(noise: float) -> None:
    margin = 0.05
    old, new, same = outcomes(margin + noise, noise, seed=2)
    rate = peeked_every_step(health_log_e(old[..., None], new[..., None], same[..., None], margin), ALPHA)
    assert rate <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


@pytest.mark.parametrize("lies", [None, 400])
def test_the_false_alarm_bound_holds_with_several_devices_and_one_of_them_that_lies(lies: int | None) -> None:
    parts = [outcomes(0.1, 0.1, seed=s, steps=400) for s in (3, 4, 5)]
    old, new = (np.stack([p[i] for p in parts], axis=-1) for i in (0, 1))
    if lies is not None:
        old = np.concatenate([old, np.full_like(old[..., :1], lies)], axis=-1)
        new = np.concatenate([new, np.zeros_like(new[..., :1])], axis=-1)
    log_e = harm_log_e(old, new, without=1)
    assert peeked_every_step(log_e, ALPHA) <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def test_swapped_classes_are_found_within_a_hundred_pairs() -> None:
    old, new, _ = outcomes(0.19, 0.005, seed=6, steps=100)
    found = peeked_every_step(harm_log_e(old[..., None], new[..., None]), ALPHA / 2)
    assert found >= 0.95


def test_an_equal_release_is_healthy_within_a_few_hundred_pairs() -> None:
    old, new, same = outcomes(0.01, 0.01, seed=7, steps=300)
    found = peeked_every_step(health_log_e(old[..., None], new[..., None], same[..., None], 0.05), ALPHA)
    assert found >= 0.95


def test_a_release_with_equal_answers_is_healthy_within_a_hundred_pairs() -> None:
    assert health_log_e(np.array([0]), np.array([0]), np.array([100]), 0.05) >= math.log(20)


def judge(**devices: Pairs):
    return paired(devices, margin=0.05, harm_alpha=0.025, health_alpha=0.05, colluding=colluders(len(devices)))


def test_evidence_does_not_depend_on_the_order_of_devices() -> None:
    rows = {"a": Pairs(only_old=5, both=10), "b": Pairs(only_new=2, both=30), "c": Pairs(neither=4, only_old=1)}
    results = {judge(**dict(order)) for order in map(tuple, itertools.permutations(rows.items()))}
    assert len(results) == 1
    result = results.pop()
    assert (result.pairs, result.only_old, result.only_new, result.devices) == (52, 6, 2, 3)


def test_one_odd_device_does_not_decide_when_several_give_evidence() -> None:
    odd = Pairs(only_old=500)
    quiet = Pairs(both=20)
    assert judge(odd=odd).harm_e > 40
    together = judge(odd=odd, quiet=quiet, third=quiet)
    assert together.harm_e < 40
    assert together.odd == ("odd",)


def test_two_devices_that_agree_do_decide() -> None:
    assert judge(a=Pairs(only_old=12, both=40), b=Pairs(only_old=9, both=40)).harm_e > 40


def test_one_lucky_device_cannot_hide_what_two_others_show() -> None:
    bad = Pairs(only_old=25, both=75)
    assert judge(a=bad, b=bad, lucky=Pairs(only_new=400)).harm_e > 40


def test_no_pairs_prove_nothing() -> None:
    assert judge() == judge(a=Pairs())
    assert judge().harm_e == judge().health_e == 1.0


def test_a_cohort_that_fails_more_than_its_control_is_found() -> None:
    found = installs([Arms(hardware="pi", cohort=50, cohort_failed=20, control=50, control_failed=0)])
    assert found.harm_e > 40 and (found.cohort, found.control_failed) == (50, 0)


def test_the_loss_that_pairs_leave_possible_is_where_the_health_test_turns() -> None:
    counts = {"a": Pairs(both=200, only_old=6, only_new=3), "b": Pairs(both=150, only_old=1)}
    found = paired(counts, margin=0.05, harm_alpha=0.025, health_alpha=0.05)
    assert found.loss_at_most is not None
    for margin, proof in ((found.loss_at_most, True), (found.loss_at_most - 0.002, False)):
        again = paired(counts, margin=margin, harm_alpha=0.025, health_alpha=0.05)
        assert (again.health_e >= 20) is proof and again.loss_at_most == found.loss_at_most
    assert paired({"a": Pairs(both=3)}, margin=0.05, harm_alpha=0.025, health_alpha=0.05).loss_at_most is None


def test_the_true_loss_is_hardly_ever_excluded_however_often_one_looks() -> None:
    random, loss, missed = np.random.default_rng(5), 0.04, 0
    for _ in range(200):
        drawn = np.cumsum(random.multinomial(10, [0.06, 0.02, 0.92], size=40), axis=0)
        looks = (Pairs(only_old=int(o), only_new=int(n), both=int(b)) for o, n, b in drawn)
        bounds = [paired({"a": look}, margin=0.1, harm_alpha=0.025, health_alpha=0.05).loss_at_most for look in looks]
        missed += any(bound is not None and bound < loss for bound in bounds)
    assert missed / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


@pytest.mark.parametrize(("cohort", "control"), [(5, 45), (10, 10), (20, 20), (50, 200)])
def test_the_more_of_the_cohort_dies_the_more_it_proves(cohort: int, control: int) -> None:
    nothing = colluders(cohort)
    found = [
        installs([Arms(cohort=cohort, cohort_failed=dead, control=control, control_failed=0)], colluding=nothing).harm_e
        for dead in range(cohort + 1)
    ]
    assert found == sorted(found) and found[nothing] <= 1.01 and found[-1] >= 40
    assert installs([Arms(cohort=cohort, cohort_failed=cohort, control=control, control_failed=control)]).harm_e <= 1


def test_small_arms_are_not_compared() -> None:
    found = installs([Arms(hardware="pi", cohort=4, cohort_failed=4, control=50, control_failed=0)])
    assert found.harm_e == pytest.approx(1.0) and found.cohort == 0


def test_arms_with_equal_hazards_raise_no_false_alarm_however_often_one_looks() -> None:
    random = np.random.default_rng(8)
    runs, control, alarms = 400, 10, 0
    for run in range(runs):
        cohort = 10 if run % 2 else 30
        order = random.permutation(cohort + control) < cohort  # who fails next, by equal hazard, until all have
        failed = np.cumsum(order)
        worst = max(
            installs([Arms(cohort=cohort, cohort_failed=int(f), control=control, control_failed=t + 1 - int(f))]).harm_e
            for t, f in enumerate(failed)
        )
        alarms += worst >= 1 / ALPHA
    assert alarms / runs <= ALPHA

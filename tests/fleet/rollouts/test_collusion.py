"""Devices that lie together: two of five or more and a tenth of a larger cohort decide nothing, in either direction."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.rollouts.bets import harm_gains, pooled
from fleet.rollouts.claims import ERROR, KEPT, RUNTIMES_DIFFER, contradicted, with_claim
from fleet.rollouts.collusion import FEW, colluders
from fleet.rollouts.evidence import GROUPS, paired
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.pairs import Pairs
from tests.support.claiming import Cohort
from tests.support.size import sized

HARMFUL, HARMLESS = {"only_old": 0.12}, {"only_old": 0.03, "only_new": 0.03}
SCENES, ROUNDS, EACH = 400, 8, 20
INVENTED = 1600  # inputs that one of them makes up
COHORTS = ((5, 2), (10, 2), (20, 2), (50, 5))


def outcomes(rng: np.random.Generator, rates: dict[str, float], inputs: Iterable[int]) -> dict[int, str]:
    """Draw an outcome for each input, by the share that each has."""
    names, marks, inputs = [*rates, "both"], np.cumsum(list(rates.values())), list(inputs)
    drawn = np.searchsorted(marks, rng.random(len(inputs)), side="right")
    return {key: names[int(at)] for key, at in zip(inputs, drawn, strict=True)}


def ends(rates: dict[str, float], devices: int, lying: int, lie: str, seed: int, *, shared: bool) -> str:
    """The first verdict of a rollout in which `lying` devices speak first, with one voice, of every input that all
    share, and of as many as they may that nobody else meets."""
    rng, honest = np.random.default_rng(seed), [f"d{number}" for number in range(devices - lying)]
    liars = [f"e{number}" for number in range(lying)]
    cohort, truth = Cohort([*liars, *honest]), outcomes(rng, rates, range(SCENES if shared else 10**5))
    for number, liar in enumerate(liars):
        if shared:
            cohort.say(liar, dict.fromkeys(truth, lie))
        first = 10**6 * (number + 1)
        cohort.say(liar, dict.fromkeys(range(first, first + INVENTED), lie))
    for turn in range(ROUNDS):
        for place, name in enumerate(honest):
            own = range((place * ROUNDS + turn) * EACH, (place * ROUNDS + turn + 1) * EACH)
            met = rng.integers(0, SCENES, EACH).tolist() if shared else own
            cohort.say(name, {scene: truth[scene] for scene in met})
        verdict = cohort.judged()
        if verdict.judgement != "not-enough-evidence":
            return verdict.judgement
    return "not-enough-evidence"


@pytest.mark.parametrize(("devices", "lying"), COHORTS)
@pytest.mark.parametrize("shared", [True, False])
def test_a_release_that_loses_twelve_percent_does_not_get_through(devices: int, lying: int, shared: bool) -> None:
    for seed in range(sized(2, 20)):
        assert ends(HARMFUL, devices, lying, "both", seed, shared=shared) != "healthy", seed


@pytest.mark.parametrize(("devices", "lying"), COHORTS)
@pytest.mark.parametrize("shared", [True, False])
def test_a_harmless_release_is_not_halted(devices: int, lying: int, shared: bool) -> None:
    for seed in range(sized(2, 20)):
        assert ends(HARMLESS, devices, lying, "only_old", seed, shared=shared) != "harmful", seed


@pytest.mark.parametrize(("rates", "verdict"), [(HARMFUL, "harmful"), (HARMLESS, "healthy")])
def test_where_they_cannot_list_what_others_meet_the_honest_ones_still_decide(rates: dict, verdict: str) -> None:
    lie = "both" if verdict == "harmful" else "only_old"
    assert ends(rates, 20, 2, lie, 1, shared=False) == verdict


def test_of_three_devices_two_that_lie_together_can_decide() -> None:
    """More of them lie than say the truth: no count of devices helps, and the plan of the rollout says so."""
    assert ends(HARMLESS, FEW - 2, 2, "only_old", 1, shared=False) == "harmful"


def test_they_take_no_places_from_those_who_meet_what_speaks_against_the_release() -> None:
    """Ten of a hundred tell the truth of every loss before the others, and so many that no place would be left."""
    rng = np.random.default_rng(4)
    truth = outcomes(rng, HARMFUL, range(800))
    honest, liars = [f"d{number}" for number in range(90)], [f"e{number}" for number in range(10)]
    cohort = Cohort([*liars, *honest])
    for liar in liars:
        cohort.say(liar, {scene: outcome for scene, outcome in truth.items() if outcome == "only_old"})
    for name in honest:
        cohort.say(name, {scene: truth[scene] for scene in rng.choice(800, 400, replace=False).tolist()})
    pairs = cohort.pairs()
    lost, said = (sum(getattr(pairs[name], which) for name in honest) for which in ("own_old", "claimed"))
    assert lost / said >= 0.8 * sum(outcome == "only_old" for outcome in truth.values()) / len(truth)
    assert cohort.judged().judgement != "healthy"


@given(st.permutations([f"d{number}" for number in range(KEPT + 4)]), st.integers(0, 2**60))
def test_who_speaks_first_has_no_part_in_the_lot(order: list[str], key: int) -> None:
    found: dict[str, str] = {}
    for device in order:
        found = dict(with_claim(key, found, device, "only_old"))
    again: dict[str, str] = {}
    for device in sorted(order):
        again = dict(with_claim(key, again, device, "only_old"))
    assert found == again and len(found) == KEPT


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=8),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_what_is_left_is_no_more_than_any_others_show(counts: list[tuple[int, int]], lying: int, random) -> None:
    gains = harm_gains(*np.array(counts).T)
    honest = sorted(random.sample(range(len(counts)), max(0, len(counts) - lying)))
    assert pooled(gains, without=lying) <= pooled(gains[honest]) + 1e-9


def test_the_loss_that_a_large_fleet_leaves_possible_is_that_of_the_honest_devices() -> None:
    """A tenth of more devices than are summed up one by one says that nothing is lost; the others lose 12 points."""
    lying = GROUPS // 5
    said = {f"e{number:04}": Pairs(both=2000) for number in range(lying)}
    said |= {f"d{number:04}": Pairs(both=44, only_old=6) for number in range(9 * lying)}
    trusted, found = (
        paired(said, margin=0.05, harm_alpha=0.025, health_alpha=0.05, colluding=colluding) for colluding in (0, lying)
    )
    assert trusted.loss_at_most is not None and trusted.loss_at_most < 0.12
    assert found.loss_at_most is not None and found.loss_at_most >= 0.12
    assert found.health_e < 1 < 40 < found.harm_e


@pytest.mark.parametrize(("devices", "share", "nothing"), [(1, 0.1, 0), (2, 0.1, 1), (4, 0.1, 1), (5, 0.1, 2)])
def test_small_cohorts(devices: int, share: float, nothing: int) -> None:
    assert colluders(devices, share) == nothing


def test_large_cohorts_by_the_share_that_the_policy_has() -> None:
    assert [colluders(n) for n in (20, 21, 50, 10_000)] == [2, 3, 5, 1000]
    assert GuardPolicy(colluders=0.0).colluding(10_000) == 2
    assert GuardPolicy(colluders=0.25).colluding(100) == 25


def test_a_runtime_that_rounds_otherwise_is_heard_and_one_that_lies_is_not() -> None:
    """Of 2,000 inputs that others have met, 20 are one per cent; a liar makes up any number that nobody meets."""
    outvoted, checked = np.array([20, 20, 60, 4, 0]), np.array([2000, 400, 400, 4, 2000])
    assert contradicted(outvoted, checked).tolist() == [False, False, True, False, False]
    assert contradicted(np.array([30]), np.array([200])).tolist() == [True]
    assert contradicted(np.array([5]), np.array([0])).tolist() == [True], "what was counted before others were"


def test_honest_runtimes_are_contradicted_no_more_often_than_is_said() -> None:
    """Rollouts of ten devices which all differ as much as runtimes may, looked at after every twentieth input."""
    rng, fleets = np.random.default_rng(6), sized(500, 5000)
    differ = (rng.random((fleets, 10, 600)) < RUNTIMES_DIFFER).cumsum(axis=2)[:, :, 19::20]
    wrong = 0
    for fleet in differ:
        wrong += any(contradicted(fleet[:, look], np.full(10, 20 * (look + 1))).any() for look in range(30))
    assert wrong <= ERROR * fleets + 3 * (ERROR * fleets) ** 0.5


def test_an_honest_device_of_another_runtime_stays_evidence() -> None:
    """Three devices share 1,000 scenes; the third answers one per cent of them otherwise."""
    rng = np.random.default_rng(8)
    truth = outcomes(rng, {"only_old": 0.01, "only_new": 0.01}, range(1000))
    cohort = Cohort(["a", "b", "c"])
    for name in "ab":
        cohort.say(name, truth)
    odd = set(rng.choice(1000, 10, replace=False).tolist())
    cohort.say("c", {key: "neither" if key in odd else outcome for key, outcome in truth.items()})
    verdict = cohort.judged()
    assert verdict.judgement == "healthy" and verdict.paired.contradicted == ()
    assert cohort.pairs()["c"].outvoted == len(odd) and cohort.pairs()["c"].checked == 1000

"""Devices that meet the same inputs check one another: no single one decides what came of them, in either direction."""

from __future__ import annotations

from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.rollouts.claims import KEPT, OUTCOMES, SHARED, Claims, SharedInputs, effects, with_claim
from fleet.rollouts.evidence import paired
from fleet.rollouts.pairs import Pairs
from tests.support.claiming import Cohort
from tests.support.size import sized

HARMFUL, HARMLESS = {"only_old": 0.12}, {"only_old": 0.03, "only_new": 0.03}
SCENES = 400  # that anybody can list
LIES = ("both", "only_old", "only_new", "truth")


def world(rng: np.random.Generator, rates: dict[str, float], scenes: int = SCENES) -> dict[int, str]:
    """The outcome of each scene, by the share that each outcome has."""
    drawn, marks = rng.random(scenes), np.cumsum(list(rates.values()))
    names = [*rates, "both"]
    return {scene: names[int(at)] for scene, at in enumerate(np.searchsorted(marks, drawn, side="right"))}


def played(truth: dict[int, str], honest: int, lie: str, seed: int, *, invented: int = 0, rounds: int = 40) -> Cohort:
    """A cohort in which one device speaks first of every scene, and of invented ones, and honest devices follow.

    Args:
        lie: the outcome that it claims of all; "truth" is true of the scenes, and "both" of what it invents.
    """
    rng = np.random.default_rng(seed)
    names = [f"d{number}" for number in range(honest)]
    cohort = Cohort(["enemy", *names])
    made_up = "only_new" if lie == "truth" else lie
    said = {scene: outcome if lie == "truth" else lie for scene, outcome in truth.items()}
    cohort.say("enemy", said | dict.fromkeys(islice(count(10**6), invented), made_up))
    for _ in range(rounds):
        for name in names:
            met = rng.integers(0, len(truth), 20).tolist()
            cohort.say(name, {scene: truth[scene] for scene in met})
    return cohort


@pytest.mark.parametrize("honest", [2, 3, 30])
@pytest.mark.parametrize("lie", LIES)
def test_a_device_that_speaks_first_of_every_input_cannot_hide_harm(lie: str, honest: int) -> None:
    """Once others have met most inputs: until then, and beside two, it can keep the evidence from being enough."""
    truth = world(np.random.default_rng(7), HARMFUL)
    assert played(truth, honest, lie, 1, invented=1000, rounds=10).judged().judgement != "healthy"
    verdict = played(truth, honest, lie, 1, invented=1000, rounds=100).judged()
    assert verdict.judgement in (("harmful", "not-enough-evidence") if honest == 2 else ("harmful",)), verdict.reason
    if lie != "truth":
        assert verdict.paired.contradicted == ("enemy",)


@pytest.mark.parametrize("invented", [0, 1600])
@pytest.mark.parametrize("lie", LIES)
def test_beside_one_other_it_hides_nothing_and_halts_nothing(lie: str, invented: int) -> None:
    """The right one of the two is unknown: such inputs prove nothing, and both are named."""
    truth = world(np.random.default_rng(3), HARMFUL)
    found = played(truth, 1, lie, 2, invented=invented).judged()
    agrees = lie == "only_old" or (lie == "truth" and not invented)  # wherever harm is
    assert found.judgement == ("harmful" if agrees else "not-enough-evidence"), found.reason
    if lie in ("both", "only_new"):
        assert set(found.paired.disputing) == {"enemy", "d0"} and "contradict each other" in found.reason


@pytest.mark.parametrize("honest", [1, 2, 3, 30])
@pytest.mark.parametrize("lie", LIES)
def test_it_cannot_forge_harm(lie: str, honest: int) -> None:
    for seed in range(sized(3, 30)):
        truth = world(np.random.default_rng(seed), HARMLESS)
        verdict = played(truth, honest, lie, seed, invented=1600 if lie == "only_old" else 0).judged()
        assert verdict.judgement != "harmful", (seed, verdict.reason)


def test_what_it_disputes_halts_nothing_either() -> None:
    """It contradicts one other wherever the new release won, so that losses alone stand."""
    truth = world(np.random.default_rng(5), {"only_old": 0.06, "only_new": 0.06})
    cohort = Cohort(["enemy", "d0"])
    cohort.say("enemy", {scene: "both" if found == "only_new" else found for scene, found in truth.items()})
    cohort.say("d0", truth)
    assert cohort.judged().judgement == "not-enough-evidence"


def test_a_kind_of_hardware_that_loses_is_not_outvoted() -> None:
    """Two devices of ten lose on inputs that the other eight answer: the release is not called healthy."""
    rng = np.random.default_rng(11)
    cohort = Cohort([f"d{number}" for number in range(10)])
    wrong = {scene: "only_old" if rng.random() < 0.2 else "both" for scene in range(SCENES)}
    for number in range(10):
        cohort.say(f"d{number}", wrong if number < 2 else dict.fromkeys(range(SCENES), "both"))
    verdict = cohort.judged()
    assert verdict.judgement == "not-enough-evidence" and verdict.paired.contradicted == ()
    assert verdict.paired.disputed == sum(outcome == "only_old" for outcome in wrong.values())


def test_where_all_see_the_same_a_harmless_release_passes_and_whoever_spoke_first_does_not_matter() -> None:
    truth = world(np.random.default_rng(2), {"only_old": 0.01, "only_new": 0.01})
    ends = []
    for order in (("a", "b", "c"), ("c", "a", "b")):
        cohort = Cohort(sorted(order))
        for name in order:
            cohort.say(name, truth)
        ends.append(cohort.judged())
    assert ends[0] == ends[1] and ends[0].judgement == "healthy", ends[0].reason
    assert ends[0].paired.shared == ends[0].paired.pairs == SCENES


def test_an_old_count_without_claims_stays_as_it_is() -> None:
    claims = Claims({5: {}})
    assert claims.add("d", {5: "only_old", 6: "both"}, 10) == (1, 1)
    assert claims.adds() == {"d": {"both": 1, "claimed": 1}}


Said = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 5), st.sampled_from(OUTCOMES)), max_size=60)


@given(Said)
def test_the_counts_are_those_of_what_is_kept_and_it_is_bounded(said: list[tuple[str, int, str]]) -> None:
    claims = Claims()
    for device, key, outcome in said:
        claims.add(device, {key: outcome}, 1)
    found: dict[str, dict[str, int]] = {}
    for key, told in claims.changed():
        assert len(told) <= KEPT * len(OUTCOMES)
        for whose, which in effects(key, told):
            found.setdefault(whose, {}).setdefault(which, 0)
            found[whose][which] += 1
    assert claims.adds() == found
    owned = sum(counts.get(name, 0) for whose, counts in found.items() if whose != SHARED for name in OUTCOMES)
    assert owned + SharedInputs(**found.get(SHARED, {})).disputed == len({key for _, key, _ in said})


@given(st.lists(st.sampled_from(OUTCOMES), max_size=8), st.sampled_from(OUTCOMES), st.integers(1, 8))
def test_two_honest_devices_settle_an_input_whatever_one_other_says_and_whenever(
    noise: list[str], truth: str, honest: int
) -> None:
    """And before they do, what it counts for proves no more than the truth."""
    speakers = [("enemy", lie) for lie in noise] + [(f"d{number}", truth) for number in range(honest)]
    told: dict[str, str] = {}
    for device, outcome in speakers[::-1] if len(noise) % 2 else speakers:
        told = dict(with_claim(5, told, device, outcome))
        shared = {which for whose, which in effects(5, told) if whose == SHARED}
        if "disputed" in shared and any(device != "enemy" for device in told):
            assert truth != "only_old" or "maybe_old" in shared, "it counts as lost where health is to be shown"
            assert truth != "only_new" or "maybe_new" in shared, "and as won where harm is"
    if honest > 1:
        found = effects(5, told)
        assert (SHARED, "settled") in found
        assert [device for device, which in found if which == truth and device in told] != []


def test_looking_again_and_again_halts_a_harmless_release_no_more_often_than_is_said() -> None:
    """An input leaves its device's bets when another one meets it: 300 rollouts, each looked at forty times."""
    rng, halted, fleets = np.random.default_rng(20), 0, sized(300, 3000)
    for _ in range(fleets):
        truth = world(rng, {"only_old": 0.1, "only_new": 0.1}, 200)
        cohort = Cohort(names := ["a", "b", "c"])
        for _ in range(20):
            for name in names:
                met = rng.integers(0, len(truth), 5).tolist()
                cohort.say(name, {scene: truth[scene] for scene in met})
            evidence = paired(
                cohort.pairs(), margin=0.05, harm_alpha=0.05, health_alpha=0.05, colluding=1, shared=cohort.shared
            )
            if evidence.harm_e >= 20:
                halted += 1
                break
    assert halted <= 0.05 * fleets + 2 * (0.05 * 0.95 * fleets) ** 0.5


RATES = {"only_old": 0.05, "only_new": 0.05}


@pytest.mark.parametrize(("chosen", "forged"), [("only_old", "harmful"), ("only_new", "harmful"), ("both", "healthy")])
@pytest.mark.parametrize("devices", [2, 5, 10])
@pytest.mark.parametrize("common", [False, True])
def test_one_that_tells_the_truth_of_chosen_inputs_forges_nothing(
    chosen: str, forged: str, devices: int, common: bool
) -> None:
    """It meets what others have met, or are going to, by its outcome; the inputs are of each device, or of all."""
    rates = RATES if forged == "harmful" else {"only_old": 0.16, "only_new": 0.08}
    for seed in range(sized(3, 30)):
        rng, names = np.random.default_rng(seed), [f"d{number}" for number in range(devices)]
        each = world(rng, rates, 200 * (1 if common else devices))
        parts = [each if common else {key: each[key] for key in range(200 * n, 200 * n + 200)} for n in range(devices)]
        said = list(zip(names, parts, strict=True))
        chose = ("enemy", {key: outcome for key, outcome in each.items() if outcome == chosen})
        verdicts = []
        for order in (said, [chose, *said], [*said, chose]):
            cohort = Cohort(["enemy", *names])
            for name, outcomes in order:
                cohort.say(name, outcomes)
            verdicts.append(cohort.judged().judgement)
        assert verdicts[0] == forged or forged not in verdicts, (seed, verdicts)


def test_losses_on_rare_inputs_are_not_drowned_by_common_ones() -> None:
    """Three devices share 300 inputs on which nothing changes, and lose 12 of 100 that each has for itself."""
    cohort, rare = Cohort(["a", "b", "c"]), ["only_old"] * 32 + ["only_new"] * 20 + ["both"] * 48
    for place, name in enumerate("abc"):
        cohort.say(name, dict.fromkeys(range(300), "both") | dict(enumerate(rare, 1000 * (place + 1))))
    assert cohort.judged().judgement == "not-enough-evidence"


def test_one_device_brings_no_proof_of_health_where_the_others_only_repeat() -> None:
    """It invents inputs of which no other says anything, and the others meet the twenty that there are."""
    truth = dict.fromkeys(range(20), "both")
    cohort = Cohort(["enemy", "a", "b"])
    cohort.say("enemy", dict.fromkeys(range(10**6, 10**6 + 1900), "both"))
    for name in "ab":
        cohort.say(name, truth)
    assert cohort.judged().judgement == "not-enough-evidence"
    assert cohort.pairs()["enemy"] == Pairs(both=1900, claimed=1900)

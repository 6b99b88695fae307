"""Outcomes of two releases, matched: a harmless release is not halted though devices differ, and no device decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.rollouts import evidence
from fleet.rollouts.evidence import Arms
from fleet.rollouts.guard import CohortHealth, GuardVerdict, judge
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.matching import FAIR, MATCHED, MOST_OF_ONE, JudgedAnswer, Matched, match
from fleet.rollouts.pairs import Pairs, counted
from fleet.rollouts.power import POWER, pairs_needed
from tests.support.size import examples, sized

POLICY = GuardPolicy(evidence="labels", margin=0.05)
OUTCOMES = st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60)


def outcomes(found: list[tuple[str, bool]]) -> list[JudgedAnswer]:
    return [JudgedAnswer(*one) for one in found]


def verdict(found: Matched, cohort: int = 10, control: int = 10, policy: GuardPolicy = POLICY) -> GuardVerdict:
    arms = (Arms(cohort=cohort, cohort_failed=0, control=control, control_failed=0),)
    health = CohortHealth(present=cohort, committed=cohort)
    return judge(policy, health, found, arms, assigned=cohort)


@given(new=OUTCOMES, old=OUTCOMES)
@settings(max_examples=examples(60), deadline=None)
def test_each_outcome_is_in_one_pair_at_most_and_a_pair_belongs_to_two_devices(new, old) -> None:
    found = match(outcomes(new), outcomes(old))
    by_new, by_old = (
        {name: sum(getattr(pairs, name) for pairs in some.values()) for name in ("both", "only_old", "only_new")}
        for some in (found.by_new, found.by_old)
    )
    assert by_new == by_old
    total = sum(pairs.total for pairs in found.by_new.values())
    assert total == min(len(new), len(old)) == sum(pairs.total for pairs in found.by_old.values())
    assert (found.waiting_new, found.waiting_old) == (len(new) - total, len(old) - total)
    assert {name: pairs.total for name, pairs in found.by_new.items()}.items() <= {
        name: sum(one[0] == name for one in new[:total]) for name in "abc"
    }.items()


def test_what_comes_later_changes_no_pair_and_one_device_has_no_more_than_its_part() -> None:
    new = [("a", True), ("b", False), ("a", True)]
    assert match(outcomes(new), outcomes([("z", True)])).by_new == {"a": Pairs(both=1)}
    assert match(outcomes(new), outcomes([("z", True)] * 2)).by_new == {"a": Pairs(both=1), "b": Pairs(only_old=1)}
    flood = match(outcomes([("a", True)] * (MOST_OF_ONE + 5)), outcomes([("z", True)] * MOST_OF_ONE + [("y", True)]))
    assert flood.by_new["a"].total == MOST_OF_ONE and flood.waiting_old == 1


@given(
    others=st.lists(st.tuples(*[st.integers(0, 40)] * 3), min_size=1, max_size=12),
    forged=st.tuples(*[st.integers(0, MOST_OF_ONE)] * 3),
)
@settings(max_examples=examples(60), deadline=None)
def test_no_device_brings_more_than_a_fair_part_whatever_it_says(others, forged) -> None:
    def weighed(some: list[tuple[int, int, int]]) -> tuple[float, float]:
        named = {f"d-{n}": Pairs(both=b, only_old=o, only_new=w) for n, (b, o, w) in enumerate(some)}
        of_devices = counted(named, POLICY.margin, MATCHED)
        found = evidence.weigh(of_devices, margin=0.05, harm_alpha=0.025, health_alpha=0.05, bets=MATCHED)
        return found.harm_e, found.health_e

    for before, after in zip(weighed(others), weighed([*others, forged]), strict=True):
        assert after <= before * np.exp(FAIR) * 1.0001


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("side", ["new", "old"])
def test_the_outcomes_of_one_device_neither_halt_nor_promote(side: str, right: bool) -> None:
    """Its own release always right, or always wrong; of the others there is some, which shows nothing yet."""
    random = np.random.default_rng(0)
    honest = [JudgedAnswer(f"d-{number % 9}", bool(random.random() < 0.9)) for number in range(180)]
    liar = [JudgedAnswer("liar", right)] * MOST_OF_ONE
    other = [JudgedAnswer(f"z-{number % 10}", bool(random.random() < 0.9)) for number in range(MOST_OF_ONE + 180)]
    found = match(honest + liar, other) if side == "new" else match(other, honest + liar)
    assert verdict(found).judgement == "not-enough-evidence"


def play(cohort: int, control: int, spread: float, loss: float, seed: int, looks: int) -> str:
    """A rollout whose devices are right in 90 % on average, each in its own share; labels come 5 per device."""
    random = np.random.default_rng([seed, cohort, control])
    new = np.clip(0.9 - loss + spread * random.standard_normal(cohort), 0, 1)
    old = np.clip(0.9 + spread * random.standard_normal(control), 0, 1)
    size = 5 * max(cohort, control)
    firsts: list[JudgedAnswer] = []
    others: list[JudgedAnswer] = []
    for _ in range(looks):
        for some, rates in ((firsts, new), (others, old)):
            devices = random.permutation(np.arange(size) % len(rates))
            some += [JudgedAnswer(f"d-{n}", bool(random.random() < rates[n])) for n in devices]
        found = verdict(match(firsts, others), cohort, control)
        if found.judgement != "not-enough-evidence":
            return found.judgement
    return "not-enough-evidence"


@pytest.mark.parametrize(("cohort", "control", "spread"), [(10, 10, 0.1), (10, 40, 0.05), (50, 50, 0.1)])
def test_a_harmless_release_is_not_halted_though_devices_differ(cohort: int, control: int, spread: float) -> None:
    plays = sized(8, 200)
    found = [play(cohort, control, spread, 0.0, seed, looks=sized(8, 60)) for seed in range(plays)]
    assert found.count("harmful") <= 0.05 * plays


@pytest.mark.parametrize(("loss", "wrong"), [(0.0, "harmful"), (0.05, "healthy")])
def test_no_verdict_by_luck_where_half_of_the_devices_are_always_wrong(loss: float, wrong: str) -> None:
    """Chance gave some of them the release, and each shows it again and again."""
    plays, found = sized(12, 300), []
    for seed in range(plays):
        random = np.random.default_rng(seed)
        rights = random.random((2, 100)) < np.array([[0.5 - loss], [0.5]])
        outcomes: tuple[list[JudgedAnswer], list[JudgedAnswer]] = ([], [])
        for _ in range(15):
            for some, right in zip(outcomes, rights, strict=True):
                some += [JudgedAnswer(f"d-{n}", bool(right[n])) for n in random.permutation(100)]
            found.append((seed, verdict(match(*outcomes), 100, 100).judgement))
    assert len({seed for seed, judgement in found if judgement == wrong}) <= 0.05 * plays


def test_one_that_loses_much_is_stopped_and_none_that_loses_nothing_where_devices_are_alike() -> None:
    plays, looks = sized(6, 100), 25
    bad = [play(50, 50, 0.05, 0.15, seed, looks) for seed in range(plays)]
    assert bad.count("harmful") >= POWER * plays
    good = [play(50, 50, 0.0, 0.0, seed, looks) for seed in range(plays)]
    assert good.count("healthy") >= POWER * plays


def test_where_nobody_serves_the_old_release_any_more_what_was_shown_before_counts() -> None:
    well = [JudgedAnswer(f"d-{number % 10}", True) for number in range(4000)]
    old = [JudgedAnswer(f"z-{number % 10}", True) for number in range(4000)]
    shown = match(well, old)
    assert verdict(shown).judgement == "healthy"
    last = judge(
        POLICY,
        CohortHealth(present=20, committed=20),
        shown,
        (Arms(cohort=20, cohort_failed=0, control=0, control_failed=0),),
        pairs_before=4000,
        assigned=20,
    )
    assert last.judgement == "healthy"
    nothing = verdict(Matched(), cohort=20, control=0)
    assert nothing.judgement == "not-enough-evidence" and "0 matched labels do not yet show" in nothing.reason


def test_few_devices_are_said_to_be_too_few() -> None:
    well = [JudgedAnswer(f"d-{number % 3}", True) for number in range(300)]
    old = [JudgedAnswer(f"z-{number % 10}", True) for number in range(300)]
    found = verdict(match(well, old))
    assert found.judgement == "not-enough-evidence" and "labels of 3 devices of the cohort" in found.reason
    assert "7 of each must bring some" in found.reason


def test_the_plan_counts_more_of_such_pairs_than_of_audits() -> None:
    audits, labels = (pairs_needed(margin=0.1, alpha=0.05, devices=8, matched=matched) for matched in (False, True))
    assert audits is not None and labels is not None and labels > 2 * audits
    assert pairs_needed(margin=0.1, alpha=0.05, devices=3, matched=True) is None, "three devices cannot show it"

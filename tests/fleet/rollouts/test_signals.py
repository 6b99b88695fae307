"""Telemetry as evidence: each device against its own habit, both releases at the same time, and no device decides."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.rollouts.evidence import Arms
from fleet.rollouts.guard import CohortHealth, GuardVerdict, judge
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.matching import MOST_OF_ONE
from fleet.rollouts.signals import KEPT, LEAST_WINDOWS, Habit, Signal, State, count, habit_of, signal_of
from tests.support.size import examples, sized

POLICY = GuardPolicy(evidence="signals", margin=0.1)
HABIT = Habit(0.02, 14.0, 0.8)
WELL, ILL = Signal(0.0, 13.0, 0.9), Signal(0.5, 13.0, 0.9)


def verdict(state: State, cohort: int, control: int) -> GuardVerdict:
    arms = (Arms(cohort=cohort, cohort_failed=0, control=control, control_failed=0),)
    health = CohortHealth(present=cohort, committed=cohort)
    return judge(POLICY, health, state.matched, arms, assigned=cohort)


def test_a_window_says_what_its_histograms_hold() -> None:
    body = {
        "counters": {"requests": 100, "failed": 7},
        "latency_us": [0] * 10 + [50, 50],
        "confidence": [0] * 10 + [50] + [0] * 8 + [50],
    }
    found = signal_of(body)
    assert found is not None and found.failed == 0.07
    assert found.slow == pytest.approx(11.8) and found.sure == pytest.approx((0.525 + 0.975) / 2)
    assert signal_of({"counters": {"requests": 4, "failed": 4}}) is None
    assert signal_of({"counters": {"requests": 5}}) == Signal(0.0, None, None) and signal_of({}) is None


def test_a_habit_is_a_devices_own_and_takes_some_windows() -> None:
    usual = [Signal(0.0, 13.0 + 0.1 * (number % 2), 0.9) for number in range(LEAST_WINDOWS)]
    assert habit_of(usual[1:]) is None
    habit = habit_of(usual)
    assert habit is not None and habit.worse(usual[0]) == ""
    assert habit.worse(Signal(0.03, 13.0, 0.9)) == "failed"
    assert habit.worse(Signal(0.0, 14.0, 0.9)) == "slow"
    assert habit.worse(Signal(0.0, 13.0, 0.8)) == "unsure"
    assert habit.worse(Signal(0.0, None, None)) == "", "what is not said is not held against it"


def test_windows_are_matched_with_those_of_their_time_and_the_state_is_a_document() -> None:
    state = State(first=0, last=0, habits={"new": HABIT, "old": HABIT, "none": None})
    count(state, [("old", WELL)] * (KEPT + 20) + [("none", ILL), ("stranger", ILL)], {"new"})
    assert len(state.old) == KEPT and state.by_new == {}
    state = msgspec.convert(msgspec.to_builtins(state), State)
    count(state, [("new", ILL), ("new", WELL)], {"new"})
    found = state.matched
    assert (found.by_new["new"].only_old, found.by_new["new"].both) == (1, 1) and found.waiting_old == KEPT - 2
    assert found.by_old["old"].total == 2 and found.whys == {"new": {"failed": 1}}
    assert found.of_old(0.1).whys == "with the new release 1 failed"
    count(state, [("new", WELL)] * 2 * MOST_OF_ONE, {"new"})
    assert state.counted["new"] == MOST_OF_ONE


def test_a_first_window_after_a_swap_may_be_slow_and_no_more() -> None:
    slow = Signal(0.0, 20.0, 0.9)
    state = State(first=0, last=0, habits={"new": HABIT, "old": HABIT})
    count(state, [("old", slow), ("old", WELL), ("new", slow)], {"new"})
    assert state.whys == {"old": {"slow": 1}}, "nobody else's cold start is left out"
    state = msgspec.convert(msgspec.to_builtins(state), State)
    count(state, [("new", slow), ("old", WELL)], {"new"})
    assert state.whys == {"old": {"slow": 1}, "new": {"slow": 1}}
    fresh = State(first=0, last=0, habits={"new": HABIT})
    count(fresh, [("new", Signal(0.5, 20.0, 0.9))], {"new"})
    assert fresh.whys == {"new": {"failed": 1}}, "what failed in it counts"


def test_windows_that_wait_for_days_use_nothing_up() -> None:
    """A rollout that is created today and begins tomorrow, or soaks for a day."""
    names = [f"d-{n:02}" for n in range(20)]
    state, windows = State(first=0, last=0, habits=dict.fromkeys(names, HABIT)), [(name, WELL) for name in names]
    for _ in range(MOST_OF_ONE + 100):
        count(state, windows, set())  # nobody has the release yet
    for _ in range(30):
        count(state, windows, {*names[:10]})
    assert sum(pairs.total for pairs in state.by_new.values()) == 300
    state = msgspec.convert(msgspec.to_builtins(state), State)
    assert verdict(state, 10, 10).judgement == "healthy"


def test_every_stage_takes_as_much_of_a_device() -> None:
    state, both = State(first=0, last=0, habits={"new": HABIT, "old": HABIT}), [("new", WELL), ("old", WELL)]
    count(state, both * 2 * MOST_OF_ONE, {"new"})
    state.at(0)
    count(state, both, {"new"})
    assert state.by_new["new"].total == MOST_OF_ONE, "of one stage it has brought all"
    state.at(1)
    count(state, both * 2 * MOST_OF_ONE, {"new"})
    assert state.by_new["new"].total == state.by_old["old"].total == 2 * MOST_OF_ONE


def play(seed: int, *, loss: str = "", devices: int = 30, looks: int = 12) -> str:
    """Devices that differ a lot from one another and a little from hour to hour; half of them get the release."""
    random = np.random.default_rng(seed)
    usual = random.uniform([0, 10, 0.5], [0.05, 18, 0.95], (devices, 3))
    names = [f"d-{number:02}" for number in range(devices)]

    def window(number: int, new: bool) -> Signal:
        failed, slow, sure = usual[number] + random.normal(0, [0.01, 0.1, 0.02])
        failed += 0.1 * (new and loss == "failed")
        return Signal(max(failed, 0.0), slow + (new and loss == "slow"), sure - 0.15 * (new and loss == "unsure"))

    state = State(first=0, last=0)
    for number, name in enumerate(names):
        state.habits[name] = habit_of([window(number, False) for _ in range(40)])
    cohort = set(names[: devices // 2])
    for _ in range(looks):
        order = np.concatenate([random.permutation(devices) for _ in range(10)])
        count(state, [(names[n], window(n, names[n] in cohort)) for n in order], cohort)
        found = verdict(state, len(cohort), devices - len(cohort)).judgement
        if found != "not-enough-evidence":
            return found
    return "not-enough-evidence"


@pytest.mark.parametrize("loss", ["failed", "slow", "unsure"])
def test_a_release_that_fails_more_is_slower_or_less_sure_is_stopped(loss: str) -> None:
    plays = sized(3, 100)
    assert [play(seed, loss=loss) for seed in range(plays)].count("harmful") >= 0.95 * plays


def test_a_harmless_one_is_promoted_and_hardly_ever_halted_though_devices_differ() -> None:
    plays = sized(8, 300)
    found = [play(seed) for seed in range(plays)]
    assert found.count("harmful") <= 0.05 * plays and found.count("healthy") >= 0.9 * plays


@given(ill=st.floats(0, 1), new=st.booleans(), seed=st.integers(0, 1000))
@settings(max_examples=examples(15), deadline=None)
def test_no_device_decides_whatever_it_reports(ill: float, new: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    names = [f"d-{number}" for number in range(20)]
    state = State(first=0, last=0, habits=dict.fromkeys(["liar", *names], HABIT))
    cohort = {*names[:10], *(["liar"] if new else [])}
    honest = [(name, WELL if random.random() < 0.95 else ILL) for name in names]
    count(state, honest, cohort)
    lies = [("liar", ILL if random.random() < ill else WELL) for _ in range(MOST_OF_ONE)]
    other = [(names[10 + n % 10] if new else names[n % 10], WELL) for n in range(200)]
    count(state, [*lies, *other], cohort)
    assert verdict(state, len(cohort), 21 - len(cohort)).judgement == "not-enough-evidence"


def test_the_verdict_says_that_answers_are_not_judged_and_what_was_worse() -> None:
    state = State(first=0, last=0, habits=dict.fromkeys([f"d-{n}" for n in range(20)], HABIT))
    cohort = {f"d-{n}" for n in range(10)}
    for number in range(2000):
        count(state, [(f"d-{number % 10}", ILL), (f"d-{10 + number % 10}", WELL)], cohort)
    found = verdict(state, 10, 10)
    assert found.judgement == "harmful" and "2000 matched windows" in found.reason
    assert found.reason.endswith("outside of habit were with the new release 2000 failed")
    assert "answers are not judged" in found.goal

"""The guard's three verdicts and its policy."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from fleet.rollouts.errors import PolicyError
from fleet.rollouts.evidence import Arms
from fleet.rollouts.guard import ClassLatency, CohortHealth, judge
from fleet.rollouts.guard_policy import GuardPolicy, load_policy
from fleet.rollouts.pairs import Pairs

POLICY = GuardPolicy()
WHOLE = CohortHealth(present=3, committed=3)
ALONE = CohortHealth(present=1, committed=1)


def test_good_pairs_are_healthy_and_the_reason_has_the_counts() -> None:
    verdict = judge(POLICY, WHOLE, {"a": Pairs(both=100), "b": Pairs(both=120)})
    assert verdict.judgement == "healthy"
    assert "not worse by more than 5 points, at 95 %: 220 audited pairs" in verdict.reason
    assert verdict.goal == POLICY.goal


def test_losing_pairs_are_harmful() -> None:
    verdict = judge(POLICY, ALONE, {"a": Pairs(both=60, only_old=15)})
    assert verdict.judgement == "harmful"
    assert "15 were right only by the old release" in verdict.reason


def test_few_pairs_are_not_enough_evidence() -> None:
    verdict = judge(POLICY, WHOLE, {"a": Pairs(both=29)})
    assert (verdict.judgement, verdict.reason) == (
        "not-enough-evidence",
        "29 audited pairs in this stage, 30 are needed",
    )


def test_a_stage_needs_pairs_of_its_own() -> None:
    pairs = {"a": Pairs(both=150), "b": Pairs(both=150)}
    assert judge(POLICY, WHOLE, pairs, pairs_before=280).judgement == "not-enough-evidence"
    assert judge(POLICY, WHOLE, pairs, pairs_before=200).judgement == "healthy"
    again = {name: replace(found, repeats=20) for name, found in pairs.items()}
    assert judge(POLICY, WHOLE, again, pairs_before=280).judgement == "healthy", "it saw what the stage before has seen"


def test_an_equally_noisy_release_is_undecided_until_the_pairs_suffice() -> None:
    noisy = {"a": Pairs(both=30, only_old=4, only_new=4)}
    assert judge(POLICY, WHOLE, noisy).judgement == "not-enough-evidence"


def test_more_failed_devices_than_allowed_are_harmful_whatever_the_pairs_say() -> None:
    cohort = CohortHealth(present=1, failed=1, reasons=("selftest-failed",))
    verdict = judge(POLICY, cohort, {"a": Pairs(both=1000)})
    assert verdict.judgement == "harmful"
    assert verdict.reason == "1 of 1 devices failed (selftest-failed)"


def test_one_failed_device_of_several_neither_halts_nor_is_health() -> None:
    for present in (2, 10, 19):
        cohort = CohortHealth(present=present, committed=present - 1, failed=1, reasons=("disk",), examples=("d-7",))
        verdict = judge(POLICY, cohort, {"a": Pairs(both=1000), "b": Pairs(both=1000)})
        assert verdict.judgement == "not-enough-evidence"
        assert f"1 of {present} devices failed (disk), such as d-7" in verdict.reason
        assert "pin those and retry, or promote by hand" in verdict.reason
    assert judge(POLICY, CohortHealth(present=4, committed=2, failed=2), {}).judgement == "harmful"
    assert judge(POLICY, CohortHealth(present=10, committed=7, failed=3), {}).judgement == "harmful"


def test_two_devices_of_five_or_more_that_say_they_failed_do_not_halt() -> None:
    for present in (5, 10, 39):
        cohort = CohortHealth(present=present, committed=present - 2, failed=2, reasons=("disk",))
        verdict = judge(POLICY, cohort, {name: Pairs(both=1000) for name in "abcdefg"})
        assert verdict.judgement == "not-enough-evidence" and "2 of" in verdict.reason


def test_silence_without_a_control_to_compare_with_neither_halts_nor_is_health() -> None:
    cohort = CohortHealth(present=10, committed=1, failed=9, silent=9)
    pairs = {"a": Pairs(both=1000), "b": Pairs(both=1000)}
    verdict = judge(POLICY, cohort, pairs)
    assert verdict.judgement == "not-enough-evidence" and "9 of them silent" in verdict.reason
    compared = (Arms(cohort=10, cohort_failed=9, control=90, control_failed=0),)
    assert judge(POLICY, cohort, pairs, compared).judgement == "harmful"
    both = (Arms(cohort=10, cohort_failed=9, control=90, control_failed=80),)
    assert judge(POLICY, cohort, pairs, both).judgement == "not-enough-evidence"


def test_a_forged_number_of_one_device_decides_nothing_for_a_cohort_of_several() -> None:
    forged = {"enemy": Pairs(only_old=2000)}
    verdict = judge(POLICY, WHOLE, forged)
    assert verdict.judgement == "not-enough-evidence" and verdict.paired.odd == ("enemy",)
    assert judge(POLICY, WHOLE, {"enemy": Pairs(both=2000)}).judgement == "not-enough-evidence"
    seen_too = {"first": Pairs(both=300), "second": Pairs(both=2, repeats=40)}
    assert judge(POLICY, WHOLE, seen_too).judgement == "not-enough-evidence", "the second shows nothing by itself"
    assert "1 brought audited pairs, 2 must" in judge(POLICY, WHOLE, {"enemy": Pairs(both=2000)}).reason


def test_one_reachable_device_of_several_decides_no_more_than_one_of_several_that_are() -> None:
    alone = CohortHealth(present=1, committed=1)
    for pairs in (Pairs(only_old=2000), Pairs(both=2000)):
        verdict = judge(POLICY, alone, {"d-1": pairs}, assigned=10)
        assert verdict.judgement == "not-enough-evidence"
    assert "of 10 devices 1 brought audited pairs, 3 must (9 are not reachable" in verdict.reason
    assert judge(POLICY, CohortHealth(present=1, failed=1), {}, assigned=10).judgement == "not-enough-evidence"
    slow = judge(BOUND, alone, {}, latencies=(fast(1, 500.0),), assigned=10)
    assert slow.judgement == "not-enough-evidence"
    install = judge(GuardPolicy(evidence="install"), alone, {}, assigned=10)
    assert install.judgement == "not-enough-evidence" and "1 of 10 devices is reachable, 2 must be" in install.reason


def test_devices_that_rest_are_said_and_are_no_health() -> None:
    policy = GuardPolicy(evidence="install")
    asleep = judge(policy, CohortHealth(resting=20), {}, assigned=20)
    assert (asleep.judgement, asleep.reason) == (
        "not-enough-evidence",
        "no device of the cohort is reachable; 20 devices quiet, by habit",
    )
    awake = judge(policy, CohortHealth(present=2, committed=2, resting=8), {}, assigned=10)
    assert awake.judgement == "healthy" and "8 devices quiet, by habit" in awake.reason
    few = CohortHealth(present=10, committed=8, failed=2, resting=90)
    assert judge(policy, few, {}, assigned=100).judgement == "not-enough-evidence", "2 of a cohort of 100"


def test_failures_within_the_allowance_are_tolerated() -> None:
    cohort = CohortHealth(present=100, committed=95, failed=5)
    assert judge(POLICY, cohort, {str(number): Pairs(both=100) for number in range(11)}).judgement == "healthy"


def test_failures_against_the_control_are_harmful() -> None:
    policy = GuardPolicy(max_install_failures=0.9)
    arms = (Arms(cohort=50, cohort_failed=20, control=50, control_failed=0),)
    cohort = CohortHealth(present=50, committed=30, failed=20)
    verdict = judge(policy, cohort, {}, arms)
    assert verdict.judgement == "harmful" and "0 of 50 in the control" in verdict.reason


def test_a_stage_waits_for_as_many_devices_as_were_asked_for() -> None:
    policy, pairs = GuardPolicy(min_devices=3), {name: Pairs(both=100) for name in "abc"}
    assert judge(policy, CohortHealth(present=5, committed=3), pairs).judgement == "healthy"
    verdict = judge(policy, CohortHealth(present=5, committed=2), pairs)
    assert verdict.judgement == "not-enough-evidence"
    assert verdict.reason == "not enough evidence: 2 devices committed the release, 3 must"


def test_no_reachable_device_is_not_healthy_even_without_pairs_asked_for() -> None:
    policy = GuardPolicy(evidence="install")
    assert judge(policy, CohortHealth(), {}).judgement == "not-enough-evidence"
    assert judge(policy, WHOLE, {}).judgement == "healthy"


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({"alhpa": 0.1}, "alhpa"),
        ({"alpha": 0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": 1e-13}, "alpha"),
        ({"margin": 0.9}, "margin"),
        ({"on_no_evidence": "go-on"}, "go-on"),
        ({"min_pairs": "many"}, "min_pairs"),
        ({"max_install_failures": 1.0}, "max_install_failures"),
        ({"silent_after_s": -1}, "silent_after_s"),
        ({"evidence_deadline_s": 0}, "evidence_deadline_s"),
        ({"max_p95_us": 0}, "max_p95_us"),
        ({"max_p95_us": float("nan")}, "max_p95_us"),
        ({"min_measured": 0}, "min_measured"),
        ({"min_devices": 0}, "min_devices"),
        ({"colluders": 0.5}, "colluders"),
        ({"colluders": float("nan")}, "colluders"),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused_by_name(document: dict, word: str) -> None:
    with pytest.raises(PolicyError, match=word):
        load_policy(document)


def test_an_empty_policy_is_the_default() -> None:
    assert load_policy({}) == GuardPolicy()


BOUND = GuardPolicy(max_p95_us=100.0, min_measured=2, evidence="install")


def fast(devices: int = 2, p95_us: float = 80.0, hardware: str = "rpi4") -> ClassLatency:
    return ClassLatency(hardware=hardware, devices=devices, p95_us=p95_us)


def test_a_bounded_p95_must_have_been_measured_by_enough_devices() -> None:
    verdict = judge(BOUND, WHOLE, {}, latencies=(fast(1),))
    assert verdict.judgement == "not-enough-evidence"
    assert verdict.reason == "not enough evidence: 1 device measured the release's p95, 2 must"
    assert judge(BOUND, WHOLE, {}).judgement == "not-enough-evidence"
    assert judge(BOUND, WHOLE, {}, latencies=(fast(1), fast(1, hardware="x86"))).judgement == "healthy"


def test_a_cohort_smaller_than_the_number_asked_for_needs_all_its_devices() -> None:
    alone = CohortHealth(present=1, committed=1)
    assert judge(BOUND, alone, {}).judgement == "not-enough-evidence"
    assert judge(BOUND, alone, {}, latencies=(fast(1),)).judgement == "healthy"


def test_a_hardware_class_over_the_limit_is_harmful_whatever_else_is_known() -> None:
    verdict = judge(BOUND, WHOLE, {}, latencies=(fast(), fast(2, 250.0, "rpi3")))
    assert verdict.judgement == "harmful"
    assert verdict.reason == "the measured p95 is 250 µs on rpi3 hardware (median of 2 devices), 100 µs is allowed"
    paired = GuardPolicy(max_p95_us=100.0)
    assert judge(paired, WHOLE, {"a": Pairs(both=500)}, latencies=(fast(3, 100.5),)).judgement == "harmful"
    both = {"a": Pairs(both=500), "b": Pairs(both=500)}
    assert judge(paired, WHOLE, both, latencies=(fast(3, 100.0),)).judgement == "healthy"
    alone = judge(paired, WHOLE, both, latencies=(fast(2), fast(1, 250.0, "rpi3")))
    assert alone.judgement == "not-enough-evidence" and "one device of several does not decide" in alone.reason


def test_speed_does_not_replace_the_other_evidence() -> None:
    paired = GuardPolicy(max_p95_us=100.0)
    assert judge(paired, WHOLE, {}, latencies=(fast(3),)).judgement == "not-enough-evidence"


def test_without_a_limit_figures_change_nothing() -> None:
    verdict = judge(POLICY, ALONE, {"a": Pairs(both=100)}, latencies=(fast(3, 1e9),))
    assert verdict.judgement == "healthy" and verdict.latencies == (fast(3, 1e9),)


@pytest.mark.parametrize("policy", [POLICY, GuardPolicy(evidence="install")])
def test_devices_that_had_no_request_are_no_evidence_of_health(policy: GuardPolicy) -> None:
    pairs = {"a": Pairs(both=100), "b": Pairs(both=100)}
    verdict = judge(policy, CohortHealth(present=3, committed=3, untried=3), pairs)
    assert verdict.judgement == "not-enough-evidence"
    assert verdict.reason == "not enough evidence: 3 devices have had no request"
    alone = judge(policy, CohortHealth(present=1, committed=1, untried=1), pairs)
    assert alone.reason == "not enough evidence: 1 device has had no request"
    assert judge(policy, CohortHealth(present=3, committed=3, untried=1), pairs).judgement == "healthy"


def test_untried_devices_are_told_apart_from_those_that_answer() -> None:
    verdict = judge(GuardPolicy(evidence="install"), CohortHealth(present=3, committed=3, untried=2), {})
    assert verdict.reason == "3 of 3 devices committed (2 of them untried), 0 failed"

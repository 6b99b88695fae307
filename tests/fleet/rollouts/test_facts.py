"""The state of devices by assignment."""

from __future__ import annotations

import pytest

from fleet.rollouts.evidence import Arms
from fleet.rollouts.facts import DeviceFact, Joined, RolloutFacts, latencies, silenced, standing, tally
from fleet.rollouts.guard import ClassLatency, CohortHealth, Failures

NOW, JOINED, SILENT = 1000.0, 500.0, 100.0
HELD = Joined(salt="-", shares_ppm=(1_000_000,), times=(JOINED,), started_at=JOINED)


def device(name: str = "a", last_seen: float = NOW, **changes) -> DeviceFact:
    return DeviceFact(device_id=name, last_seen=last_seen, **changes)


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (device(), "whole"),
        (device(last_seen=NOW - SILENT), "whole"),
        (device(last_seen=NOW - SILENT - 1), "silent"),
        (device(last_seen=JOINED - SILENT), "silent"),
        (device(last_seen=JOINED - SILENT - 1), "away"),
        (device(failed=True, last_seen=0.0), "failed"),
        (device(failed=True), "failed"),
        (device(last_seen=700.0, quiet_s=250.0), "away"),
        (device(last_seen=700.0, quiet_s=250.0, committed=True), "resting"),
        (device(last_seen=700.0, quiet_s=199.0, committed=True), "silent"),
        (device(last_seen=1.0, quiet_s=1e6), "away"),
    ],
)
def test_standing(fact: DeviceFact, expected: str) -> None:
    assert standing(fact, JOINED, SILENT, NOW) == expected


@pytest.mark.parametrize(
    ("fact", "deaf_until", "expected"),
    [
        (device(last_seen=600.0, committed=True), 950.0, "resting"),
        (device(last_seen=600.0), 950.0, "away"),
        (device(last_seen=600.0, committed=True), 899.0, "silent"),
        (device(last_seen=600.0, silenced_at=701.0), 950.0, "silent"),
        (device(last_seen=960.0), 950.0, "whole"),
    ],
)
def test_silence_counts_from_when_devices_can_be_heard_again(
    fact: DeviceFact, deaf_until: float, expected: str
) -> None:
    assert standing(fact, JOINED, SILENT, NOW, deaf_until) == expected
    silent = silenced(RolloutFacts(cohort=(fact,), deaf_until=deaf_until), HELD, SILENT, NOW)
    assert bool(silent) == (expected == "silent" and fact.silenced_at is None)


def test_devices_are_counted_by_assignment_and_hardware() -> None:
    cohort = (
        device("a", committed=True, hardware="pi"),
        device("b", hardware="pi"),
        device("c", failed=True, reason="selftest-failed", hardware="pc"),
        device("d", last_seen=700.0, committed=True, hardware="pi"),
        device("e", last_seen=1.0, hardware="pi"),
    )
    control = (
        device("f", hardware="pi"),
        device("g", last_seen=950.0 - 400, hardware="pi"),
        device("h", last_seen=2.0),
    )
    health, arms = tally(RolloutFacts(cohort=cohort, control=control), HELD, SILENT, NOW)
    assert health == CohortHealth(
        present=4,
        committed=1,
        failed=2,
        silent=1,
        pending=1,
        reasons=("selftest-failed",),
        examples=("c", "d"),
        failures=(
            Failures(reason="selftest-failed", devices=1, example="c"),
            Failures(reason="silent", devices=1, example="d"),
        ),
    )
    assert arms == (
        Arms(hardware="pc", cohort=1, cohort_failed=1, control=0, control_failed=0),
        Arms(hardware="pi", cohort=3, cohort_failed=1, control=2, control_failed=1),
    )


def test_in_the_arms_a_device_fails_once_and_stays_failed_in_the_cohort_it_is_whole_when_it_is_back() -> None:
    cohort = (device("a", committed=True, silenced_at=600.0), device("b", committed=True, silenced_at=JOINED - 1))
    control = (device("c", silenced_at=600.0), device("d"), device("e", last_seen=1.0, silenced_at=550.0))
    health, arms = tally(RolloutFacts(cohort=cohort, control=control), HELD, SILENT, NOW)
    assert (health.present, health.committed, health.failed) == (2, 2, 0)
    assert arms == (Arms(cohort=2, cohort_failed=1, control=3, control_failed=2),)


def test_one_that_is_quiet_within_its_habit_is_no_failure_and_no_health() -> None:
    cohort = (device("a", committed=True), device("b", last_seen=700.0, quiet_s=250.0, committed=True))
    health, arms = tally(RolloutFacts(cohort=cohort), HELD, SILENT, NOW)
    assert health == CohortHealth(present=1, committed=1, resting=1)
    assert arms == (Arms(cohort=2, cohort_failed=0, control=0, control_failed=0),)


def test_who_falls_silent_is_told_once_and_again_after_it_joined() -> None:
    cohort = (device("a", last_seen=700.0), device("b", last_seen=700.0, silenced_at=600.0), device("c"))
    control = (device("d", last_seen=700.0), device("e", last_seen=700.0, silenced_at=JOINED - 9))
    found = silenced(RolloutFacts(cohort=cohort, control=control), HELD, SILENT, NOW)
    assert found == ("a", "d", "e")


def test_what_a_device_showed_before_it_left_stays() -> None:
    left = (device("a", failed=True, reason="crash-loop", hardware="pi"), device("b", committed=True))
    health, arms = tally(RolloutFacts(cohort=(device("c", committed=True),), left=left), HELD, SILENT, NOW)
    assert (health.present, health.committed, health.failed, health.reasons) == (2, 1, 1, ("crash-loop",))
    assert Arms(hardware="pi", cohort=1, cohort_failed=1, control=0, control_failed=0) in arms


def test_what_the_cohort_measured_is_its_median_per_hardware_class() -> None:
    cohort = (
        device("a", hardware="pi", p95_us=90.0),
        device("b", hardware="pi", p95_us=10_000.0),
        device("c", hardware="pi", p95_us=110.0),
        device("d", hardware="pc", p95_us=5.0),
        device("e", hardware="pc", p95_us=999.0, failed=True),
        device("f", hardware="mcu"),
    )
    control = (device("g", hardware="pi", p95_us=1.0),)
    assert latencies(RolloutFacts(cohort=cohort, control=control)) == (
        ClassLatency(hardware="pc", devices=1, p95_us=5.0),
        ClassLatency(hardware="pi", devices=3, p95_us=110.0),
    )


def test_untried_are_the_committed_devices_that_have_answered_nothing() -> None:
    cohort = (
        device("a", committed=True, untried=True),
        device("b", committed=True),
        device("c", untried=True),
        device("d", committed=True, untried=True, failed=True),
    )
    health, _ = tally(RolloutFacts(cohort=cohort), HELD, SILENT, NOW)
    assert (health.committed, health.untried, health.pending) == (2, 1, 1)

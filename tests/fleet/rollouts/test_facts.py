"""How devices stand by assignment."""

from __future__ import annotations

import pytest

from fleet.rollouts.evidence import Arms
from fleet.rollouts.facts import DeviceFact, Facts, standing, tally
from fleet.rollouts.guard import CohortHealth

NOW, JOINED, SILENT = 1000.0, 500.0, 100.0


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
    ],
)
def test_standing(fact: DeviceFact, expected: str) -> None:
    assert standing(fact, JOINED, SILENT, NOW) == expected


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
    health, arms = tally(Facts(cohort=cohort, control=control), lambda _: JOINED, JOINED, SILENT, NOW)
    assert health == CohortHealth(present=4, committed=1, failed=2, silent=1, pending=1, reasons=("selftest-failed",))
    assert arms == (
        Arms(hardware="pc", cohort=1, cohort_failed=1, control=0, control_failed=0),
        Arms(hardware="pi", cohort=3, cohort_failed=1, control=2, control_failed=1),
    )

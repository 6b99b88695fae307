"""Every promise of the demo can be broken, and says so in a sentence."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from fleet.demo import promises

GOOD: dict[str, Any] = {
    "accuracy": {"teacher": 0.99, "student_fp32": 0.97, "student_int8": 0.965},
    "requests": {"total": 5000, "edge": 4500, "cloud": 500, "failed": 0},
    "rollouts": [
        {"release": 2, "outcome": "finished"},
        {"release": 3, "outcome": "halted", "reason": "harmful", "exposed_devices": 1},
        {"release": 4, "outcome": "finished"},
    ],
    "drift": {"alarms_before_shift": 0, "alarm_after_requests": 600, "alarms_after_retrain": 0, "labels": 300},
    "accuracy_over_time": {
        "before_shift": {"edge_only": 0.97, "served": 0.98},
        "during_shift": {"edge_only": 0.80, "served": 0.90},
        "after_retrain": {"edge_only": 0.95, "served": 0.97},
    },
    "kill": {"states": ["fetching", "trying"], "requests_failed": 0, "recovered": True},
}


def test_a_good_report_breaks_nothing() -> None:
    assert promises.broken(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("requests", "failed"), 1, "failed"),
        (("requests", "cloud"), 0, "cloud"),
        (("accuracy", "student_int8"), 0.95, "int8"),
        (("rollouts", 0, "outcome"), "halted", "release 2"),
        (("rollouts", 1, "outcome"), "finished", "release 3"),
        (("rollouts", 1, "exposed_devices"), 3, "3 devices"),
        (("rollouts", 2, "outcome"), "running", "release 4"),
        (("drift", "alarms_before_shift"), 1, "before the shift"),
        (("drift", "alarm_after_requests"), None, "no drift alarm"),
        (("drift", "alarms_after_retrain"), 2, "after the retrain"),
        (("drift", "labels"), 299, "299"),
        (("accuracy_over_time", "after_retrain", "edge_only"), 0.91, "points below"),
        (("accuracy_over_time", "during_shift", "edge_only"), 0.96, "did not recover"),
        (("kill", "states"), ["fetching"], "states"),
        (("kill", "requests_failed"), 2, "killed"),
        (("kill", "recovered"), False, "did not finish"),
    ],
)
def test_each_broken_promise_is_named(path: tuple[Any, ...], value: object, word: str) -> None:
    report = copy.deepcopy(GOOD)
    place: Any = report
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    sentences = promises.broken(report)
    assert len(sentences) == 1
    assert word in sentences[0]

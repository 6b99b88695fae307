"""Durations in words."""

from __future__ import annotations

import pytest

from fleet.api.durations import planned_span, time_span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "60 min"), (7200, "2 h"), (86_399, "24 h"), (2 * 86_400, "2 d")],
)
def test_the_largest_unit_of_which_there_is_a_whole_one(seconds: float, text: str) -> None:
    assert time_span(seconds) == text


def test_a_plan_is_told_to_a_tenth_and_seconds_whole() -> None:
    assert [planned_span(s) for s in (None, 41.4, 90, 5400)] == ["unknown", "41 s", "1.5 min", "1.5 h"]

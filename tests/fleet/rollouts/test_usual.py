"""The settings of a channel's rollouts where nobody says otherwise."""

from __future__ import annotations

import pytest

from fleet.rollouts.errors import PlanError
from fleet.rollouts.schedule import Rate, Schedule
from fleet.rollouts.usual import UsualSchedule, check_usual

NIGHTS = UsualSchedule(window="22:00-04:00", time_zone="Europe/Berlin", rate=Rate(per_minute=10))


@pytest.mark.parametrize(
    ("asked", "window", "zone", "per_minute"),
    [
        (None, "22:00-04:00", "Europe/Berlin", 10),
        (Schedule(start_at=5.0), "22:00-04:00", "Europe/Berlin", 10),
        (Schedule(window="Sat,Sun", time_zone="UTC"), "Sat,Sun", "UTC", 10),
        (Schedule(rate=Rate(per_minute=1)), "22:00-04:00", "Europe/Berlin", 1),
    ],
)
def test_what_is_asked_for_counts_and_the_rest_is_the_usual(asked, window, zone, per_minute) -> None:
    found = NIGHTS.completed(asked)
    assert (found.window, found.time_zone, found.rate.per_minute) == (window, zone, per_minute)
    assert found.start_at == (asked.start_at if asked else None)


def test_without_anything_usual_what_is_asked_for_stays_as_it_is() -> None:
    for asked in (None, Schedule(expires_at=7.0, time_zone="Europe/Berlin")):
        assert UsualSchedule(time_zone="Asia/Tokyo").completed(asked) is asked
    assert not UsualSchedule() and UsualSchedule().said() == ""


def test_it_is_said_in_words_and_refused_where_nothing_can_follow_it() -> None:
    assert NIGHTS.said() == "22:00-04:00 Europe/Berlin, 10 devices per minute"
    grows = UsualSchedule(rate=Rate(per_minute=10, factor=1.5, after=100, most=500))
    assert grows.said() == "10 devices per minute, 1.5 times as many after every 100 that succeed, 500 at most"
    assert check_usual(NIGHTS, 0.0) is NIGHTS
    for wrong in (UsualSchedule(window="at night"), UsualSchedule(window="Sat", time_zone="Mars/Base")):
        with pytest.raises(PlanError):
            check_usual(wrong, 0.0)
    with pytest.raises(PlanError, match="rate"):
        check_usual(UsualSchedule(rate=Rate(per_minute=0.0)), 0.0)

"""The rate of a rollout, and when its schedule lets it end: pure."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fleet.rollouts.calendar import parse_window
from fleet.rollouts.errors import PlanError
from fleet.rollouts.guard import CohortHealth, GuardVerdict
from fleet.rollouts.machine import Plan, checked_plan, start
from fleet.rollouts.orders import apply
from fleet.rollouts.pacing import spread_s
from fleet.rollouts.schedule import (
    STEP_S,
    Ordered,
    Rate,
    RolloutPace,
    Schedule,
    check_schedule,
    due,
    order,
    step_s,
    until,
    with_wave,
)
from fleet.rollouts.stages import plan_stages
from fleet.rollouts.timetable import timetable
from tests.support.size import examples

MILLION = 1_000_000
NOW = 1_795_431_600.0  # 2026-11-23 11:00 UTC, a Monday
ALWAYS = parse_window("")


def taken(ordered: Ordered, places: list[int]) -> int:
    return sum(place < ordered.share_ppm for place in places)


def step(ordered: Ordered, places: list[int], pace: RolloutPace, now: float) -> Ordered:
    left = [place for place in places if place >= ordered.share_ppm]
    return order(ordered, MILLION, left, pace, now) if due(ordered, pace, now) else ordered


@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([0.2, 1.0, 2.5, 7.0, 60.0]),
    crowd=st.sampled_from([1, 10, 10_000]),
    gaps=st.lists(st.sampled_from([1.0, 20.0, 60.0, 61.0, 90.0, 3600.0, 86_400.0]), min_size=10, max_size=80),
)
@settings(max_examples=examples(40), deadline=None)
def test_in_no_stretch_of_time_are_more_devices_ordered_than_the_rate_allows(seed, rate, crowd, gaps) -> None:
    rng = Random(seed)
    places = sorted(rng.randrange(MILLION) // crowd * crowd for _ in range(100))  # many lie at one place
    largest = max(places.count(place) for place in places)
    ordered, now, told = Ordered(), NOW, []
    for gap in gaps:
        now += gap
        pace = RolloutPace(per_minute=rate, step_s=STEP_S, calendar=ALWAYS)
        grown = step(ordered, places, pace, now)
        count = taken(grown, places) - taken(ordered, places)
        assert not count or grown.at == now
        told += [(now, count)] * bool(count)
        ordered = grown
    for first, (since, _) in enumerate(told):
        total = 0
        for at, count in told[first:]:  # a step's worth, or all that lie at one place, and what has come since then
            total += count
            assert total <= rate * (at - since) / 60.0 + max(rate, largest) + 1.0
    assert all(later[0] - earlier[0] >= STEP_S for earlier, later in pairwise(told))


def test_a_whole_rate_is_never_exceeded_in_a_step_and_all_devices_come() -> None:
    places = list(range(0, 100_000, 1000))
    ordered, sizes = Ordered(), []
    for minute in range(12):
        before = taken(ordered, places)
        ordered = step(ordered, places, RolloutPace(per_minute=10, step_s=60.0, calendar=ALWAYS), NOW + 61.0 * minute)
        sizes.append(taken(ordered, places) - before)
    assert sizes == [10] * 10 + [0, 0] and ordered.share_ppm == MILLION


@pytest.mark.parametrize(
    ("rate", "places", "minutes"),
    [(0.5, [5, 6, 7], [0, 2, 4]), (0.01, [5, 6, 7], [0, 100, 200]), (0.5, [5, 5, 7], [0, 0, 2])],
)
def test_less_than_a_device_in_a_step_begins_at_once_and_goes_on_in_time(rate, places, minutes) -> None:
    ordered, told = Ordered(), []
    for minute in range(minutes[-1] + 1):
        pace = RolloutPace(per_minute=rate, step_s=STEP_S, calendar=ALWAYS)
        grown = step(ordered, places, pace, NOW + 60.0 * minute)
        told += [minute] * (taken(grown, places) - taken(ordered, places))
        ordered = grown
    assert told == minutes
    if len(set(places)) == 3:
        table = timetable(Schedule(rate=Rate(per_minute=rate)), plan_stages((100,)), (3,), NOW)
        assert table.ends_at == pytest.approx(NOW + 60.0 * minutes[-1])
        asked = Schedule(rate=Rate(per_minute=rate))
        parts = timetable(asked, plan_stages((30, 100)), (1, 3), NOW)  # the second is not at once: nothing lies between
        assert parts.ends_at == pytest.approx(NOW + 60.0 * minutes[-1] - STEP_S)
        soaked = timetable(asked, plan_stages((30, 100), soak_s=86_400.0), (1, 3), NOW)
        assert soaked.ends_at == pytest.approx(NOW + 60.0 * minutes[1] + 2 * 86_400.0)


def test_a_hub_that_was_away_and_a_clock_that_was_set_back_make_up_for_nothing() -> None:
    places, pace = list(range(0, 100_000, 1000)), RolloutPace(per_minute=10, step_s=60.0, calendar=ALWAYS)
    ordered = step(Ordered(), places, pace, NOW)
    away = step(ordered, places, pace, NOW + 3600)
    assert taken(away, places) == 20, "one step's worth after an hour"
    back = NOW - 7200.0
    assert step(until(away, back), places, pace, back) == until(away, back)
    assert until(away, back).at == back
    assert taken(step(until(away, back), places, pace, back + 59), places) == 20
    assert taken(step(until(away, back), places, pace, back + 60), places) == 30
    slightly = until(away, NOW + 3590)  # the other hub's clock is ten seconds behind
    assert slightly == away


def test_only_open_hours_add_to_what_the_rate_allows() -> None:
    calendar = parse_window("Mon-Fri 22:00-04:00", "UTC")
    pace = RolloutPace(per_minute=0.5, step_s=60.0, calendar=calendar)
    places = [1, 2, 3]
    closes = NOW + 17 * 3600
    ordered = order(Ordered(share_ppm=1, at=closes - 60), MILLION, places, pace, NOW + 35 * 3600)
    assert ordered.share_ppm == 1, "a minute of the two"
    ordered = order(ordered, MILLION, places, pace, NOW + 35 * 3600 + 60)
    assert ordered.share_ppm == 2


def test_a_rate_grows_with_success_up_to_its_maximum() -> None:
    rate = Rate(per_minute=10, factor=2, after=100, most=50)
    assert [rate.at(count) for count in (0, 99, 100, 250, 300, 10**9)] == pytest.approx([10, 10, 20, 40, 50, 50])
    assert Rate(per_minute=5000).at(10**12) == 5000
    assert step_s(100) == 60.0 and step_s(10_000) == 200.0


def test_what_is_kept_of_a_long_stage_stays_small_and_dates_nobody_late() -> None:
    ordered = Ordered()
    for minute in range(10_000):
        ordered = with_wave(Ordered(share_ppm=100 * (minute + 1), waves=ordered.waves), NOW, NOW + 60.0 * minute)
    assert len(ordered.waves) < 200 and ordered.waves[-1].share_ppm == MILLION
    for minute in range(0, 10_000, 37):
        wave = next(wave for wave in ordered.waves if wave.share_ppm > 100 * minute)
        assert 0 <= 60.0 * minute - (wave.at - NOW) <= 60.0 * minute / 16


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule(rate=Rate(per_minute=0)), "rate of 0"),
        (Schedule(rate=Rate(per_minute=float("nan"))), "rate of nan"),
        (Schedule(rate=Rate(per_minute=1, factor=0.5)), "grows by nothing"),
        (Schedule(rate=Rate(per_minute=1, factor=2, after=0)), "grows by nothing"),
        (Schedule(rate=Rate(per_minute=10, factor=2, most=5)), "grows to 5"),
        (Schedule(start_at=NOW - 3600), "is no time to come"),
        (Schedule(start_at=1e300), "is no time to come"),
        (Schedule(start_at=NOW + 60, expires_at=NOW + 30), "does not come within a year"),
        (Schedule(expires_at=NOW - 1), "does not come within a year"),
        (Schedule(expires_at=float("inf")), "does not come within a year"),
        (Schedule(window="nights"), "cannot be read"),
        (Schedule(window="22:00-04:00", time_zone="Berlin"), "no time zone 'Berlin'"),
    ],
)
def test_a_schedule_that_nothing_can_follow_is_refused_with_what_to_change(schedule: Schedule, words: str) -> None:
    with pytest.raises(PlanError, match=words) as refused:
        check_schedule(schedule, NOW)
    assert refused.value.hint


def test_a_timetable_follows_window_rate_and_soak() -> None:
    schedule = Schedule(window="Mon-Fri 22:00-04:00", time_zone="Europe/Berlin", rate=Rate(per_minute=10))
    table = timetable(schedule, plan_stages((10, 100), soak_s=3600.0), (601, 6001), NOW)
    assert table.begins == "Mon 2026-11-23 22:00 Europe/Berlin"
    first, second = table.stages
    assert first.ordered_at - first.begins_at == pytest.approx(601 * 6 - step_s(6001)), "the first step is at once"
    assert second.begins_at == first.ends_at == first.ordered_at + 3600
    assert table.ends == "Wed 2026-11-25 03:56 Europe/Berlin" and table.ends_at == second.ends_at
    assert timetable(Schedule(), plan_stages((100,)), (9,), NOW).ends_at == NOW
    endless = Schedule(rate=Rate(per_minute=0.01), window="Mon 22:00-22:01")
    assert timetable(endless, plan_stages((100,)), (10_000,), NOW).ends_at is None


def test_devices_look_at_a_retry_over_as_long_as_the_rate_takes_to_pay_for_it() -> None:
    plan = checked_plan(
        Plan(
            id="r1",
            model="m",
            channel="c",
            release=2,
            from_release=1,
            stages=plan_stages([100]),
            salt="s",
            schedule=Schedule(rate=Rate(per_minute=10, factor=2, after=1, most=100)),
        )
    )
    failed = GuardVerdict(judgement="not-enough-evidence", reason="", cohort=CohortHealth(committed=5, failed=200))
    progress = replace(start(plan, NOW).progress, verdict=failed, ordered=Ordered(share_ppm=MILLION, at=NOW))
    assert spread_s(plan, progress, 100) == STEP_S
    retried = apply(plan, progress, "retry", NOW, reason="mended").progress
    assert spread_s(plan, retried, 100) == 200 / 10 * 60, "by the rate that it begins with: nothing has succeeded yet"
    huge = replace(retried, ordered=replace(retried.ordered, credit=-1e9))
    assert spread_s(plan, huge, 100) == 86_400 and spread_s(plan, replace(huge, state="halted"), 100) == 0


def test_a_large_fleet_looks_over_as_long_as_the_hub_needs_to_answer_it_but_for_a_halt() -> None:
    plan = checked_plan(
        Plan(id="r1", model="m", channel="c", release=2, from_release=1, stages=plan_stages([100]), salt="s")
    )
    progress = start(plan, NOW).progress
    assert [spread_s(plan, progress, devices) for devices in (3, 200, 10_000)] == [0, 4, 200]
    assert spread_s(plan, replace(progress, state="finished"), 10_000) == 200
    assert {spread_s(plan, replace(progress, state=state), 10_000) for state in ("halted", "aborted")} == {0}

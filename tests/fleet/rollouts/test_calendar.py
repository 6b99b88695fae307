"""Windows of local hours: held against a clock on the wall, and across the changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.rollouts.calendar import DAYS, Opening, closed_s, closed_since, in_words, parse_window, zone_of
from fleet.rollouts.errors import PlanError
from tests.support.size import examples

HOUR = 3600.0
START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
MINUTE = st.integers(0, 24 * 60 - 1)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])
MOMENT = st.integers(0, 500 * 24 * 60).map(lambda minute: START + 60.0 * minute)


def at(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


@st.composite
def windows(draw) -> tuple[str, list[tuple[set[int], int, int]]]:
    """A window as text, and its days, opening and closing minute."""
    spans, texts = [], []
    for _ in range(draw(st.integers(1, 3))):
        days = draw(st.sets(st.integers(0, 6), min_size=1))
        opens, closes = draw(st.tuples(MINUTE, MINUTE).filter(lambda pair: pair[0] != pair[1]))
        spans.append((days, opens, closes))
        texts.append(f"{','.join(DAYS[day] for day in days)} {clock(opens)}-{clock(closes)}")
    return "; ".join(texts), spans


def on_the_wall(spans: list[tuple[set[int], int, int]], moment: float, zone: str) -> bool:
    """Tell whether it is open by what a clock on the wall shows."""
    local = datetime.fromtimestamp(moment, ZoneInfo(zone))
    minute, today, before = local.hour * 60 + local.minute, local.weekday(), (local.weekday() - 1) % 7
    for days, opens, closes in spans:
        if opens < closes and today in days and opens <= minute < closes:
            return True
        if opens > closes and ((today in days and minute >= opens) or (before in days and minute < closes)):
            return True
    return False


def clock_changes(moment: float, zone: str) -> bool:
    """Tell whether the zone's offset changes within two days around a moment."""
    middle = datetime.fromtimestamp(moment, UTC)
    around = (middle + timedelta(hours=hours) for hours in range(-48, 49))
    return len({time.astimezone(ZoneInfo(zone)).utcoffset() for time in around}) > 1


@given(window=windows(), zone=ZONES, moment=MOMENT)
@settings(max_examples=examples(150), deadline=None)
def test_a_window_is_open_when_the_clock_on_the_wall_says_so(window, zone: str, moment: float) -> None:
    text, spans = window
    calendar = parse_window(text, zone)
    if not clock_changes(moment, zone):
        assert calendar.is_open(moment) == on_the_wall(spans, moment, zone)
    opens = calendar.next_open(moment)
    assert opens >= moment and calendar.is_open(opens) and opens - moment < 14 * 86_400
    assert calendar.is_open(moment) == (opens == moment)
    assert opens == moment or not calendar.is_open((moment + opens) / 2)


@given(window=windows(), zone=ZONES, since=MOMENT, spans=st.tuples(*[st.integers(0, 40 * 24 * 60)] * 2))
@settings(max_examples=examples(60), deadline=None)
def test_open_time_adds_up_and_is_what_is_not_closed(window, zone: str, since: float, spans) -> None:
    calendar = parse_window(window[0], zone)
    middle, until = since + 60.0 * spans[0], since + 60.0 * (spans[0] + spans[1])
    whole, closed = calendar.open_s(since, until), calendar.closings(since, until)
    assert whole == pytest.approx(calendar.open_s(since, middle) + calendar.open_s(middle, until))
    assert whole + closed_s(closed, since, until) == pytest.approx(until - since)
    if closed:
        times = np.array([since - HOUR, since, middle, until])
        told = [closed_s(closed, time, until) for time in times.tolist()]
        assert closed_since(closed, times) == pytest.approx(told)
    reached = calendar.after(since, whole, until)
    if whole:
        assert reached is not None and calendar.open_s(since, reached) == pytest.approx(whole)
    assert calendar.after(since, whole + 1.0, until) is None


@pytest.mark.parametrize(
    ("window", "day", "hours"),
    [
        ("22:00-04:00", "2026-03-28T12:00", 5.0),  # the night in which an hour is skipped
        ("22:00-04:00", "2026-10-24T12:00", 7.0),  # and the one in which an hour comes twice
        ("02:00-03:00", "2026-03-28T12:00", 0.0),  # nothing is left of it
        ("02:15-02:45", "2026-03-28T12:00", 0.5),  # both are as long after midnight as ever: 03:15 to 03:45
        ("01:30-02:30", "2026-03-28T12:00", 1.0),
        ("02:15-02:45", "2026-10-24T12:00", 0.5),  # the first of the two
        ("Sat", "2026-03-28T00:00", 24.0),
        ("Sun", "2026-03-28T12:00", 23.0),
        ("00:00-24:00", "2026-10-24T12:00", 24.0),
    ],
)
def test_a_window_on_a_day_when_the_clock_changes(window: str, day: str, hours: float) -> None:
    since = at(day)
    if window == "Sun":
        assert parse_window(window, "Europe/Berlin").open_s(since, since + 2 * 86_400) == hours * HOUR
    else:
        assert parse_window(window, "Europe/Berlin").open_s(since, since + 86_400) == hours * HOUR


def test_a_night_belongs_to_the_day_on_which_it_opens() -> None:
    calendar = parse_window("Mon-Fri 22:00-04:00", "Europe/Berlin")
    opening = calendar.next_opening(at("2026-11-27T12:00"))
    assert opening == Opening(at("2026-11-27T22:00"), at("2026-11-28T04:00")), "Friday night ends on Saturday"
    assert calendar.next_open(at("2026-11-28T04:00")) == at("2026-11-30T22:00")
    assert in_words(at("2026-11-30T22:00"), "Europe/Berlin") == "Mon 2026-11-30 22:00 Europe/Berlin"


def test_windows_that_touch_are_one_and_days_may_go_round_the_week() -> None:
    calendar = parse_window("mon 08:00-12:00; Mon 12:00-14:00; Sun-Mon 13:00-15:00", "UTC")
    opening = calendar.next_opening(at("2026-11-30T00:00", "UTC"))
    assert opening == Opening(at("2026-11-30T08:00", "UTC"), at("2026-11-30T15:00", "UTC"))
    always = parse_window("", "UTC")
    assert always.is_open(0.0) and always.open_s(5.0, 9.0) == 4.0 and always.closings(5.0, 9.0) == ()
    week = parse_window("Mon-Sun", "UTC")
    assert week.is_open(START) and week.open_s(START, START + 1e7) == 1e7 and week.closings(START, START + 1e7) == ()


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ("22:00", "cannot be read"),
        ("Mo-Fr 22:00-04:00", "cannot be read"),
        ("Mon 22:00-22:00", "can never open"),
        ("22:00-25:00", "no hours of a day"),
        ("24:00-02:00", "no hours of a day"),
        ("22:61-23:00", "no hours of a day"),
        ("Mon-", "cannot be read"),
        (";", "cannot be read"),
        ("Mon;" * 40, "41 parts"),
        ("Mon-Fri-Sun", "cannot be read"),
        ("\u0661\u0662:00-13:00", "cannot be read"),
    ],
)
def test_a_window_that_cannot_be_read_or_never_opens_is_refused_with_what_to_do(window: str, words: str) -> None:
    with pytest.raises(PlanError, match=words) as refused:
        parse_window(window, "UTC")
    assert refused.value.hint and refused.value.subject == "window"


@pytest.mark.parametrize(
    "zone", ["", "Europe", "../../etc/passwd", "/etc/localtime", "Mars/Olympus", "x" * 300, "A\0B"]
)
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(PlanError, match="no time zone") as refused:
        zone_of(zone)
    assert "Europe/Berlin" in refused.value.hint

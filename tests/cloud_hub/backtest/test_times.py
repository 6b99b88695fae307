"""Moments of files: zones, summer time, and what is no moment."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cloud_hub.backtest.times import Moments, WrongMomentError, zone_of
from cloud_hub.errors import UsageError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text",
    [NOON, str(NOON), "2026-03-01T12:00:00Z", "2026-03-01 13:00+01:00", "20260301T120000Z", "2026-03-01T12:00"],
)
def test_a_moment_is_seconds_or_iso_8601(text: object) -> None:
    assert Moments(None).read(text) == NOON


def test_a_moment_without_a_zone_is_in_the_one_that_is_given_or_utc_and_that_is_said() -> None:
    berlin, unknown = Moments(zone_of("Europe/Berlin")), Moments(None)
    assert berlin.read("2026-03-01T13:00") == unknown.read("2026-03-01T12:00") == NOON
    assert (berlin.assumed, unknown.assumed) == (False, True)


def test_the_hour_that_comes_twice_goes_on_in_time() -> None:
    berlin = Moments(zone_of("Europe/Berlin"))
    read = [berlin.read(f"2026-10-25T{clock}") for clock in ("01:50", "02:20", "02:50", "02:20", "02:50", "03:00")]
    assert [round((at - read[0]) / 60) for at in read] == [0, 30, 60, 90, 120, 130]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "there is no moment"),
        ("yesterday", "is no moment: ISO 8601"),
        ("31.12.2025 10:00", "is no moment"),
        ("nan", "no moment from 1970 on"),
        (-1, "no moment from 1970 on"),
        (1_767_225_600_000, "milliseconds, not Unix seconds"),
        ("1767225600000000000", "nanoseconds, not Unix seconds"),
    ],
)
def test_what_is_no_moment_is_refused_with_the_reason(value: object, words: str) -> None:
    with pytest.raises(WrongMomentError, match=words):
        Moments(None).read(value)


@pytest.mark.parametrize("name", ["Mars/Olympus", "+02:00", "../../etc/passwd", ""])
def test_a_zone_that_does_not_exist_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="no zone"):
        zone_of(name)

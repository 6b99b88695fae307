"""The time that a device is quiet by habit."""

from __future__ import annotations

from cloud_hub.store.hearing import Hearing
from cloud_hub.store.quiet import PERIOD_S, heard, longest
from cloud_hub.store.tables import Device

DAY_S = 86_400.0
NO_OUTAGE = Hearing(noted_at=0.0)


def device(now: float = 0.0) -> Device:
    return Device(
        id="d",
        public_key="-",
        key_fingerprint="-",
        certificate="-",
        certificate_serial="-",
        certificate_expires_at=0.0,
        channel="stable",
        enrolled_at=0.0,
        last_seen_at=now,
        quiet_since=now,
    )


def hear(found: Device, *gaps_s: float, hub: Hearing = NO_OUTAGE) -> float:
    for gap in gaps_s:
        now = (found.last_seen_at or 0.0) + gap
        heard(found, now, hub)
        found.last_seen_at = now
    return longest(found.quiet_s, found.quiet_before_s)


def test_it_is_the_longest_silence() -> None:
    found = device()
    assert longest(found.quiet_s, found.quiet_before_s) == 0.0
    assert [hear(found, 60.0), hear(found, 1800.0), hear(found, 60.0)] == [60.0, 1800.0, 1800.0]


def test_one_that_is_off_every_night_is_known_for_it_throughout() -> None:
    found = device()
    assert {hear(found, 8 * 3600.0, *[1600.0] * 36) for _day in range(30)} == {8 * 3600.0}


def test_what_was_two_weeks_ago_is_no_habit_any_more() -> None:
    found = device()
    hear(found, DAY_S)
    assert hear(found, *[3600.0] * 24 * 6) == DAY_S
    assert hear(found, *[3600.0] * 24 * 15) == 3600.0


def test_months_in_a_drawer_are_no_habit_of_months() -> None:
    assert hear(device(), 90 * DAY_S) == DAY_S


def test_an_outage_of_the_hub_is_no_habit_of_the_device() -> None:
    outage = Hearing(noted_at=900.0, deaf_from=50.0, deaf_until=850.0)
    assert hear(device(), 900.0, hub=outage) == 100.0


def test_a_clock_that_went_back_makes_no_silence() -> None:
    found = device(now=100 * PERIOD_S)
    found.last_seen_at = 1.0  # as the hub sets it back
    assert hear(found, 60.0, 60.0) <= 60.0


def test_one_that_was_never_heard_has_no_habit_by_its_first_message() -> None:
    found = device()
    found.last_seen_at = None
    heard(found, 1e9, NO_OUTAGE)
    assert longest(found.quiet_s, found.quiet_before_s) == 0.0

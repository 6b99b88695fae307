"""The schedules that `fleet rollout create` takes, and their words in `watch`."""

from __future__ import annotations

from datetime import datetime

import pytest
import typer

from fleet.cli.scheduling import moment_of, rate_of, schedule_of
from fleet.cli.watching import lines
from tests.fleet.cli.test_watching import rollout


def test_a_schedule_is_what_was_asked_for_and_nothing_else() -> None:
    assert schedule_of("", "", "", "", "") is None and schedule_of("", "", "", "UTC", "") is None
    assert schedule_of("", "", "Sat", "UTC", "") == {"window": "Sat", "time_zone": "UTC"}
    assert schedule_of("", "", "", "", "7") == {"rate": {"per_minute": 7.0}}
    assert rate_of("10:1.5:100:500") == {"per_minute": 10.0, "factor": 1.5, "after": 100, "most": 500.0}


@pytest.mark.parametrize(
    ("text", "zone", "same"),
    [
        ("2026-12-01T22:00", "Europe/Berlin", "2026-12-01T21:00+00:00"),
        ("2026-12-01T22:00+05:30", "Europe/Berlin", "2026-12-01T16:30+00:00"),
        ("2026-10-25T02:30", "Europe/Berlin", "2026-10-25T00:30+00:00"),  # the first of two
    ],
)
def test_a_moment_is_in_its_offset_or_in_the_zone(text: str, zone: str, same: str) -> None:
    assert moment_of(text, zone, "--start-at") == datetime.fromisoformat(same).timestamp()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("2026-12-01T22:00", "", "", "", ""), "needs --time-zone, or an offset"),
        (("2026-03-29T02:30", "", "", "Europe/Berlin", ""), "clocks of Europe/Berlin skip"),
        (("tomorrow", "", "", "UTC", ""), "'tomorrow' is no time"),
        (("0001-01-01T00:00", "", "", "Asia/Tokyo", ""), "is no time|skip"),
        (("", "2026-12-01", "", "Mars/Olympus", ""), "no time zone 'Mars/Olympus'"),
        (("", "", "Sat", "", ""), "--window needs --time-zone"),
        (("", "", "", "", "fast"), "'fast' is no rate"),
        (("", "", "", "", "10:2"), "is no rate"),
        (("", "", "", "", "10:2:1.5:9"), "is no rate"),
    ],
)
def test_what_cannot_be_read_is_a_usage_error(asked: tuple[str, str, str, str, str], words: str) -> None:
    with pytest.raises(typer.BadParameter, match=words):
        schedule_of(*asked)


def test_watch_says_what_the_schedule_waits_for() -> None:
    waiting = rollout(waits="waits for its window, opens Mon 2026-11-30 22:00 Europe/Berlin")
    assert ("schedule", waiting.waits) in lines(waiting, [])
    assert not any(name == "schedule" for name, _ in lines(rollout(), []))


def test_a_channels_usual_schedule_is_set_in_parts_shown_in_words_and_left_out_of_a_rollout(fleet, hub) -> None:
    said = {"window": "Sat", "time_zone": "UTC", "rate": {"per_minute": 10.0}}
    document = {"channel": "stable", "version": 2, "models": {}}
    hub.on("PATCH", "/channels/stable").on("GET", "/channels/stable", {**document, "schedule": said})
    shown = fleet("channel", "schedule", "stable")
    assert shown.code == 0 and shown.out.strip() == "Sat UTC, 10 devices per minute"
    assert hub.sent("PATCH", "/channels/stable") == []
    options = ("--window", "Sat", "--time-zone", "UTC", "--rate", "10")
    assert fleet("channel", "schedule", "stable", *options).code == 0
    assert fleet("channel", "schedule", "stable", "--rate", "", "--window", "").code == 0
    first, second = hub.sent("PATCH", "/channels/stable")
    assert first["schedule"] == {**said, "rate": {"per_minute": 10.0, "factor": 1.0, "after": 1, "most": 1000.0}}
    assert second["schedule"] == {"window": "", "rate": None}
    for wrong in (("--window", "Sat"), ("--rate", "fast")):
        assert fleet("channel", "schedule", "stable", *wrong).code == 2
    assert schedule_of("", "", "", "", "", usual=False) == {"usual": False}

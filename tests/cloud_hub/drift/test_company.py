"""The count of the devices that moved as well, and the word on seasons, that an alarm gives people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloud_hub.drift.company import Company, company_of
from cloud_hub.drift.explain import MovedStreams, explain
from cloud_hub.drift.streams import Settings, Stream, new_stream
from cloud_hub.drift.watch import SeenWindow, Watch, WatchFacts
from fleet.protocol.durations import DAY_S

NOBODY = Company()
K, WINDOW_S, NOISE = 8, 600.0, 0.02
SETTINGS = Settings(period_s=DAY_S, first=30, budget_days=1000.0, weights=np.ones(K))
WAY = 0.1 * np.eye(K)[0]


def watched(moved: dict[str, float], after: int = 60, devices: int = 6) -> dict[str, Stream]:
    """Streams of devices after a day, and `after` windows in which some have moved along `WAY` by their measure."""
    random = np.random.default_rng(0)
    own = {f"d-{number}": 0.1 * random.normal(size=K) for number in range(devices)}
    facts = WatchFacts(devices=devices, groups=0, release=1, slot_s=WINDOW_S, now=1e9 + 2 * DAY_S)
    watch = Watch(SETTINGS, {}, {}, facts)
    for number in range(145 + after):
        for name, place in own.items():
            row = place + NOISE * random.normal(size=K) + (moved.get(name, 0.0) if number >= 145 else 0.0) * WAY
            watch.count([SeenWindow(device=name, release=1, at=1e9 + number * WINDOW_S, count=50, row=row)])
    found = {stream.name: stream for stream in watch.streams.values() if stream.kind == "device"}
    assert {stream.state for stream in found.values()} == {"steady"}
    return found


def company(streams: dict[str, Stream], name: str = "d-0") -> Company:
    return company_of(streams[name], streams.values(), SETTINGS.weights)


def test_a_device_that_moves_alone_has_no_company():
    streams = watched({"d-0": 1.0})
    assert streams["d-0"].evidence >= streams["d-0"].limit(SETTINGS)
    assert company(streams) == Company(others=5, moved=0)


def test_what_moves_all_has_all_for_company_and_half_as_far_counts():
    assert company(watched({f"d-{number}": 1.0 for number in range(6)})) == Company(others=5, moved=5)
    by_measure = {"d-0": 1.0, "d-1": 0.8, "d-2": 0.2, "d-3": 1.5, "d-4": 0.0, "d-5": -1.0}  # the last one the other way
    assert company(watched(by_measure)) == Company(others=5, moved=2)


def test_who_has_no_steady_baseline_or_was_silent_meanwhile_says_nothing():
    streams = watched({"d-0": 1.0, "d-1": 1.0, "d-2": 1.0})
    since = streams["d-0"].since
    assert since is not None
    streams["d-1"].last = since - 1
    streams["d-2"] = new_stream("device", "d-2", 1, 1.0, K)
    assert company(streams) == Company(others=3, moved=0)
    assert company(streams, "d-2") == NOBODY


def sentence(leading: Stream, found: Company = NOBODY) -> tuple[str, bool]:
    moved = MovedStreams(
        streams=[leading], leading=leading, limit=1.0, devices=["d-0"], of_devices=6, since=1e9, company=found
    )
    detail = explain(moved, [], [], most=5)
    assert (detail["others"], detail["others_moved"]) == (found.others, found.moved)
    return detail["reason"], detail["season"]


@pytest.mark.parametrize(("days", "season"), [(2.0, False), (20.9, False), (21.0, True), (364.0, True), (366.0, False)])
def test_a_baseline_that_is_weeks_old_and_not_a_year_says_that_it_may_be_a_season(days, season):
    stream = watched({"d-0": 1.0})["d-0"]
    words, told = sentence(replace(stream, began=stream.last - days * DAY_S))
    assert told == season and ("may be a season" in words) == season


def test_a_provisional_alarm_speaks_of_no_season():
    stream = replace(watched({})["d-0"], began=0.0)
    assert stream.bank is not None
    stream.bank.steady[:] = False
    words, told = sentence(replace(stream, began=stream.last - 100 * DAY_S))
    assert not told and "season" not in words and "provisional" in words


def test_an_alarm_counts_the_company_of_the_device_that_leads_it():
    stream = watched({"d-0": 1.0})["d-0"]
    assert "of 5 other devices 4 moved as well" in sentence(stream, Company(others=5, moved=4))[0]
    assert "other devices" not in sentence(stream)[0]

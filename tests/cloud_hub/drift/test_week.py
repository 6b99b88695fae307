"""A baseline of weeks: learnt where hours and days explain what moves, from windows that nothing is held against."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.drift.basis import DIMS
from cloud_hub.drift.stream_bytes import decode, encode
from cloud_hub.drift.streams import Settings, Stream, watch_again
from cloud_hub.drift.watch import FLEET, SeenWindow, Watch, WatchFacts
from cloud_hub.drift.week import MONDAY, SLOT_S, SLOTS, Week, decode_week, encode_week, slot_of
from fleet.protocol.durations import DAY_S
from tests.support.size import sized

K, WINDOW_S, N, NOISE = 6, 3600.0, 50, 0.02
DAY = int(DAY_S / WINDOW_S)
SETTINGS = Settings(period_s=DAY_S, first=30, budget_days=1000.0, weights=np.ones(K))
WEEKEND = 3 * NOISE * np.eye(K)[0]
BEGIN = MONDAY * SLOT_S + 2600 * 7 * DAY_S


class Model:
    """Two devices of a model from a Monday on, whose weekends are others; an operator closes alarms as he is told."""

    def __init__(self, seed: int = 0, *, usual: bool = True, weekend: np.ndarray = WEEKEND) -> None:
        self.random, self.usual, self.weekend = np.random.default_rng(seed), usual, weekend
        self.streams, self.number, self.now = dict[tuple[str, str], Stream](), 0, BEGIN

    def send(self, windows: int, moved: np.ndarray | float = 0.0, *, late_s: float = 0.0) -> set[tuple[str, str]]:
        """So many windows of every device; the streams that alarmed meanwhile, which are closed on Mondays."""
        alarmed = set()
        for _ in range(0, windows, DAY // 2):
            seen = []
            for _ in range(DAY // 2):
                self.now += WINDOW_S
                shift = moved + self.weekend * ((self.now - BEGIN - 1) // DAY_S % 7 >= 5)
                for name in ("d-0", "d-1"):
                    row = shift + NOISE * self.random.normal(size=K)
                    seen.append(SeenWindow(device=name, release=1, at=self.now - late_s, count=N, row=row))
            facts = WatchFacts(devices=2, groups=0, release=1, slot_s=WINDOW_S, now=self.now)
            watch = Watch(SETTINGS, {key: decode(encode(s)) for key, s in self.streams.items()}, {}, facts)
            watch.count(seen)
            self.streams = watch.streams
            over = watch.over()
            alarmed |= {stream.key for stream in over}
            for stream in over:
                stream.alarm = 1
            if (self.now - BEGIN) % (7 * DAY_S) == 0:
                for stream in self.streams.values():
                    watch_again(stream, usual=self.usual)
        return alarmed

    @property
    def made(self) -> set[str]:
        return {stream.made for stream in self.streams.values()}


def test_weekends_alarm_until_weeks_are_there_and_no_longer():
    model = Model()
    assert model.send(5 * DAY) == set() and model.made == {"period"}
    assert model.send(2 * DAY)
    model.send(21 * DAY)
    assert model.made == {"week"}
    assert {stream.state for stream in model.streams.values()} == {"steady"}
    assert model.streams["device", "d-0"].based > BEGIN + 20 * DAY_S
    assert model.send(sized(8, 90) * DAY) == set()


@pytest.mark.parametrize("day", [0, 5], ids=["on a weekday", "at a weekend"])
def test_a_move_is_found_beside_a_week(day):
    model = Model(seed=1)
    model.send((28 + day) * DAY)
    assert model.made == {"week"}
    assert ("device", "d-1") in model.send(2 * DAY, np.full(K, 1.2 * NOISE))
    since = model.streams["device", "d-1"].since
    assert since is not None


def test_what_comes_while_an_alarm_is_open_is_learnt_if_it_is_closed_as_usual():
    sundays = {}
    for usual in (True, False):
        model = Model(seed=2, usual=usual)
        model.send(14 * DAY)
        week = model.streams["device", "d-0"].week
        assert week is not None and week.visits[10:40].min() >= 2
        sundays[usual] = week.visits[50:].sum()
    assert sundays[False] < sundays[True] == 12


def test_a_lasting_move_is_no_week():
    """At any time, and also where an operator calls it usual, it is no matter of days and hours."""
    model = Model(seed=3, weekend=np.zeros(K))
    model.send(10 * DAY)
    model.send(14 * DAY, np.full(K, 2 * NOISE))
    assert model.made == {"period"}


@pytest.mark.parametrize("seed", range(sized(4, 60)))
def test_without_weekends_no_week_is_found(seed):
    random, week = np.random.default_rng(seed), Week(K)
    for number in range(4 * 7 * DAY):
        week.add(NOISE * random.normal(size=K), BEGIN + WINDOW_S * number, SETTINGS.weights)
    assert week.is_due and not week.explains
    week.postpone()
    assert not week.is_due and len(week.rows) == 0


def test_what_slots_predict_is_drawn_together_where_they_do_not_differ():
    random, week = np.random.default_rng(4), Week(K)
    for number in range(21 * DAY):
        high = 5 * NOISE * np.eye(K)[0] * (number // DAY % 7 >= 5)
        week.add(high + NOISE * random.normal(size=K), BEGIN + WINDOW_S * number, SETTINGS.weights)
    found = week.expected()
    assert np.allclose(found.mean[41:55, 0], 5 * NOISE, atol=0.5 * NOISE)
    own, drawn = week.means[:, 1:].std(axis=0).mean(), found.mean[:, 1:].std(axis=0).mean()
    assert drawn < 0.4 * own
    assert (found.variance[:, 0] > found.variance[:, 1:].mean()).all()


def test_a_week_begins_on_monday():
    assert slot_of(int(1_700_438_400 // SLOT_S)) == 0  # 2023-11-20 00:00 UTC
    assert slot_of(int((1_700_438_400 - 1) // SLOT_S)) == SLOTS - 1


def test_late_windows_join_no_visit_that_is_over():
    week = Week(K)
    for number in range(20):
        week.add(np.zeros(K), BEGIN + WINDOW_S * number, SETTINGS.weights)
    before = week.visits.copy()
    assert not week.add(np.ones(K), BEGIN, SETTINGS.weights) and not week.open_sum.any()
    assert np.array_equal(week.visits, before)


def test_a_forged_number_spoils_only_its_own_slots():
    week = Week(K)
    for number in range(3 * DAY):
        row = np.full(K, 1e30) if number == 5 else np.zeros(K)
        week.add(row, BEGIN + WINDOW_S * number, SETTINGS.weights)
    assert np.isfinite(week.means).all() and np.abs(decode_week(encode_week(week), K).means).max() <= 4.0


def test_a_week_is_small_and_comes_back_from_its_bytes():
    random, week = np.random.default_rng(5), Week(DIMS)
    for number in range(20 * DAY):
        week.add(NOISE * random.normal(size=DIMS), BEGIN + WINDOW_S * number, np.ones(DIMS))
    data = encode_week(week)
    assert sum(map(len, data)) < 14 << 10
    again = decode_week(data, DIMS)
    assert sum(map(len, encode_week(again))) == sum(map(len, data)) and encode_week(again) == data
    for one in (week, again):
        one.add(np.ones(DIMS), BEGIN + 30 * DAY_S, np.ones(DIMS))
    assert np.allclose(again.means, week.means, atol=1e-3) and np.allclose(again.squares, week.squares, rtol=1e-4)
    assert np.allclose(again.products, week.products, rtol=1e-4, atol=1e-6)
    week.postpone()
    assert sum(map(len, encode_week(week))) < 6 << 10


def test_the_fleet_learns_its_own_week_from_devices_without_theirs():
    model = Model(seed=6)
    model.send(28 * DAY)
    fleet = model.streams[FLEET]
    assert fleet.shape is not None
    weekend, weekday = fleet.shape.offsets[44, 0], fleet.shape.offsets[10, 0]
    assert weekend - weekday == pytest.approx(3 * NOISE, abs=0.5 * NOISE)

"""The test on how right answers are: silent while nothing changes, loud when the answers become worse."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from cloud_hub.drift.meaning import LEAST, Stretches, Track, Unit, again, count, delay
from fleet.protocol.durations import DAY_S
from tests.support.size import sized

BUDGET_DAYS = 1000.0


def run(
    shares: np.ndarray, track: Track | None = None, enough: int = 30, margin: float = LEAST
) -> tuple[Track, int | None]:
    """The track after these units, one a quarter of an hour, and after which one an alarm was due."""
    track, due = track or Track(), None
    for number, share in enumerate(shares):
        track = count(track, Unit(device_id="d", at=900.0 * number, share=float(share), audits=6), enough, margin)
        if due is None and track.log_e >= track.limit(BUDGET_DAYS):
            due = number
    return track, due


def audited(rate: float, windows: int, seed: int, audits: int = 6) -> np.ndarray:
    """Agreement of windows with a few audits each."""
    return np.random.default_rng([seed, int(1000 * rate)]).binomial(audits, rate, windows) / audits


@pytest.mark.parametrize("rate", [0.6, 0.93, 1.0])
def test_it_is_silent_while_the_answers_are_as_good_as_ever(rate: float) -> None:
    runs = sized(6, 200)
    assert sum(run(audited(rate, sized(700, 1500), seed))[1] is not None for seed in range(runs)) <= 0.02 * runs


@pytest.mark.parametrize(("before", "after", "within"), [(0.93, 0.7, 100), (1.0, 0.9, 150), (0.6, 0.2, 100)])
def test_it_speaks_soon_when_they_become_worse(before: float, after: float, within: int) -> None:
    for seed in range(sized(2, 50)):
        good, _ = run(audited(before, 200, seed))
        assert run(audited(after, within, seed), good)[1] is not None


def test_shares_of_any_kind_are_held_to_their_own_record() -> None:
    """A detector's agreement is an F1 score, a regression's a share of values: neither is 0 or 1."""
    rng = np.random.default_rng(0)
    good, due = run(rng.beta(8, 4, 800))
    assert due is None and good.record is not None and good.record.mean == pytest.approx(8 / 12, abs=0.1)
    worse, due = run(rng.beta(4, 8, 200), good)
    assert due is not None and worse.now == pytest.approx(1 / 3, abs=0.15)
    assert again(worse).log_e == 0.0 and again(worse).record == worse.record


def test_a_release_that_was_never_right_cannot_become_worse() -> None:
    track, due = run(np.zeros(200))
    assert due is None and track.record is not None and track.now == 0.0


@pytest.mark.parametrize("start", [(0.0, 1.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)])
def test_a_start_that_says_nothing_does_not_blind_the_record_for_ever(start: tuple[float, ...]) -> None:
    """Few first units can be wrong by chance: their margin covers all that there is, until more have joined."""
    blind, _ = run(np.array(start), enough=len(start))
    assert blind.record is not None and blind.record.least <= 0
    track, due = run(audited(0.93, 400, 0), blind, enough=len(start))
    assert due is None and track.record is not None and track.record.mean > 0.9 and track.record.least > 0.8
    assert run(audited(0.7, 200, 1), track)[1] is not None


def test_without_enough_units_there_is_no_record_and_no_verdict() -> None:
    track, due = run(np.zeros(29))
    assert track.record is None and due is None and track.counted == 29 and track.now == 0.0


def test_a_drop_of_four_points_is_found_after_ten_thousand_audits_about_when_it_was_said() -> None:
    """The whole row, over many draws: `benchmarks/statistics.py --only concept`."""
    due, sure, runs = [], [], sized(9, 60)
    for seed in range(runs):
        good, alarm = run(audited(0.93, 1700, seed))
        assert alarm is None and good.record is not None
        if good.record.margin > 0.011:  # by chance its hours differed; the record goes on
            continue
        sure.append(good.record)
        worse, alarm = run(audited(0.89, 3000, seed), good)
        assert alarm is not None and worse.record is not None and worse.record.mean > 0.91
        due.append(6 * alarm)
    assert len(sure) >= 0.95 * runs
    said = delay(Track(record=sure[-1]), BUDGET_DAYS)
    assert said is not None and 0.3 * said[0] < float(np.median(due)) < 1.7 * said[0]
    assert said[1] == pytest.approx(said[0] / (6 * 96), rel=0.1)


def test_what_a_short_record_hides_is_said() -> None:
    track, _ = run(audited(0.93, 40, 0))
    assert delay(track, BUDGET_DAYS) is None and delay(Track(), BUDGET_DAYS) is None
    again_, _ = run(audited(0.93, 1700, 0))
    assert delay(again_, BUDGET_DAYS, drop=0.02) is not None


def test_days_that_differ_make_a_record_less_sure() -> None:
    """Windows of one day depend on one another: 600 of them on six days are six."""
    random = np.random.default_rng(0)
    days = np.clip(0.9 + 0.04 * np.repeat(random.standard_normal(6), 96), 0, 1)
    track, _ = run(days + 0.01 * random.standard_normal(len(days)))
    assert track.record is not None and track.record.margin > 0.02


@pytest.mark.parametrize("seed", range(sized(2, 10)))
@pytest.mark.parametrize("swing", [0.02, 0.03])
@pytest.mark.parametrize(("devices", "window_s"), [(20, 900.0), (200, 7200.0)])
def test_hours_of_a_day_are_no_alarm(devices: int, window_s: float, swing: float, seed: int) -> None:
    """From nine in the morning on, by night so much less often right, ten days long, at a budget of years."""
    random, track = np.random.default_rng([seed, devices, int(1000 * swing)]), Track()
    for at in np.arange(9 * 3600.0, 9 * 3600.0 + 10 * DAY_S, window_s):
        rate = 0.95 if 6 <= at % DAY_S / 3600 < 18 else 0.95 - swing
        for share in random.binomial(12, rate, devices) / 12:
            track = count(track, Unit(device_id="d", at=float(at), share=float(share), audits=12), 30)
            assert track.log_e < track.limit(BUDGET_DAYS), (at / DAY_S, track.record)
    assert track.record is not None and track.record.mean == pytest.approx(0.95 - swing / 2, abs=0.005)


@pytest.mark.parametrize("wave", ["sine", "weekend", "hour"])
def test_no_usual_hour_or_day_is_an_alarm(wave: str) -> None:
    """Three points up and down in a day, weekends of three points less, and one hour in the night of five."""
    random, track = np.random.default_rng(0), Track()
    for at in np.arange(0.0, 15 * DAY_S, 3600.0):
        hour, day = at % DAY_S / 3600, int(at // DAY_S)
        less = {
            "sine": 0.03 * np.sin(hour * np.pi / 12),
            "weekend": 0.03 * (day % 7 > 4),
            "hour": 0.05 * (int(hour) == 3),
        }
        for share in random.binomial(12, 0.94 - less[wave], 20) / 12:
            track = count(track, Unit(device_id="d", at=float(at), share=float(share), audits=12), 30)
            assert track.log_e < track.limit(BUDGET_DAYS), (at / DAY_S, track.record)


def test_a_margin_is_not_small_before_a_week_is_over() -> None:
    """However many units there are: what nights are like, and weekends, no number of them says."""
    margins, track = {}, Track()
    for number in range(12 * 96):
        for share in audited(0.93, 10, number):
            track = count(track, Unit(device_id="d", at=900.0 * number, share=float(share), audits=6), 30)
        if track.record is not None:
            margins[number // 96] = track.record.margin
    assert margins[0] >= 0.06 and min(margins[day] for day in range(1, 6)) >= 0.03 and margins[11] < 0.02


def test_a_record_of_an_earlier_version_stays_as_it_is() -> None:
    old = msgspec.convert(
        {"record": {"mean": 0.93, "margin": 0.06, "units": 30, "per_day": 96.0}, "counted": 30}, Track
    )
    track, _ = run(audited(0.93, 200, 1), old)
    assert track.record == old.record and delay(track, BUDGET_DAYS) is None


def test_a_record_goes_through_its_document() -> None:
    track, _ = run(audited(0.93, 300, 2))
    assert track.record is not None and track.record.making is not None
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(track)), Track) == track


def test_a_margin_of_one_point_raises_no_false_alarm() -> None:
    """Ten days of record, as sure as 10,000 audits make it, and then nothing changes: false alarms are no more than the
    budget says. The least margin is the hardest."""
    runs, windows = sized(8, 400), sized(1200, 9600)  # of 96 windows a day
    alarms = []
    for seed in range(runs):
        good, due = run(audited(0.93, 1000, 1000 + seed, audits=12), margin=LEAST)
        assert due is None and good.record is not None
        if good.record.margin == LEAST:  # others are less sure by chance, and raise fewer
            alarms.append(run(audited(0.93, windows, 5000 + seed, audits=12), good, margin=LEAST)[1] is not None)
    assert len(alarms) >= 0.8 * runs
    assert sum(alarms) <= len(alarms) * windows / 96 / BUDGET_DAYS


def test_a_wider_margin_is_held_to_at_once_and_misses_what_is_smaller() -> None:
    good, _ = run(audited(0.93, 1700, 0))
    assert run(audited(0.89, 1500, 1), good)[1] is not None
    assert run(audited(0.89, 1500, 1), good, margin=0.08)[1] is None
    assert run(audited(0.80, 500, 1), good, margin=0.08)[1] is not None
    known = Track(record=good.record)
    assert delay(known, BUDGET_DAYS, margin=0.08) is None, "and says that it hides a drop of four points"
    assert delay(known, BUDGET_DAYS, drop=0.15, margin=0.08) > delay(known, BUDGET_DAYS, drop=0.15)


@pytest.mark.parametrize("seed", [0, 1])
def test_hours_of_a_single_unit_do_not_make_a_record_less_sure(seed: int) -> None:
    """Units under suspicion join no record, so an hour may have one; it was taken for an hour that differs, and hid
    any drop for weeks."""
    random, track = np.random.default_rng(seed), Track()
    for number in range(sized(11, 25) * 720):
        track = count(track, Unit(device_id="d", at=120.0 * number, share=float(random.random() < 0.9)), 30)
    assert track.record is not None and track.record.margin <= 0.02


def test_hours_of_a_few_units_are_judged_together() -> None:
    stretches = Stretches()
    for hour in range(0, 24, 2):
        for place in range(30):
            stretches = stretches.add(0.0 if place < 3 else 1.0, hour)
        stretches = stretches.add(0.0, hour + 1)  # a unit that is wrong, by itself
    assert stretches.beyond(0.09) == 0.0 and stretches.means.count == 12

"""A baseline learns how its windows depend on one another, and keeps a period in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.drift.baseline import BLOCKS, ROWS, History, fit, variance_ratio
from fleet.protocol.durations import DAY_S

K = 6
ONES = np.ones(K)


def history(rows: np.ndarray, window_s: float = 600.0) -> History:
    found = History(rows.shape[1])
    found.extend(rows, window_s * np.arange(len(rows)), np.full(len(rows), 50))
    return found


def stays(windows: int, stay: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    subjects = np.repeat(random.normal(size=(-(-windows // stay) + 1, K)), stay, axis=0)[stay // 2 :][:windows]
    return 0.5 * random.normal(size=(windows, K)) + subjects


def test_independent_windows_are_their_own_blocks():
    rows = np.random.default_rng(0).normal(size=(144, K))
    found = fit(history(rows), ONES)
    assert found.steady and (found.block_s, found.blocks) == (0.0, 144)
    assert np.allclose(found.mean, rows.mean(axis=0))


@pytest.mark.parametrize("seed", range(5))
def test_windows_of_subjects_who_stay_are_no_baseline_before_30_stays_and_one_after(seed):
    rows = stays(144 * 16, 24, seed)
    day, more = fit(history(rows[:144]), ONES), fit(history(rows), ONES)
    assert not day.steady
    assert more.steady and more.blocks >= BLOCKS and more.block_s >= 4 * 3600


def test_a_period_that_is_not_over_is_never_steady():
    rows = np.random.default_rng(0).normal(size=(144, K))
    assert not fit(history(rows), ONES, over=False).steady


def test_days_with_hours_are_found_from_their_own_autocorrelation():
    hours = np.arange(144 * 8) / 144 * 2 * np.pi
    rows = np.random.default_rng(1).normal(size=(len(hours), K))
    rows[:, 0] += np.sin(hours)
    assert not variance_ratio(rows[:144])[1]
    assert fit(history(rows), ONES).block_s >= 3 * 3600


def test_a_long_period_needs_no_more_memory_than_a_short_one_and_keeps_its_mean():
    rows = np.random.default_rng(2).normal(size=(20_000, K))
    found = History(K)
    for number, row in enumerate(rows[:400]):  # one by one, and all at once
        found.add(row, 600.0 * number, 50)
    found.extend(rows[400:], 600.0 * np.arange(400, 20_000), np.full(19_600, 50))
    assert len(found.rows) <= ROWS and found.windows == 20_000
    assert np.allclose(fit(found, ONES).mean, rows.mean(axis=0))
    assert found.span_s > 130 * DAY_S


def test_the_usual_number_of_inputs_is_what_a_mean_of_windows_is_as_sure_as():
    found = History(K)
    found.add(np.zeros(K), 0.0, 10)
    found.add(np.zeros(K), 600.0, 1000)
    assert found.count == pytest.approx(2 / (1 / 10 + 1 / 1000))


def test_more_streams_and_fewer_blocks_widen_the_margin():
    rows = np.random.default_rng(3).normal(size=(144, K))
    short, long = fit(history(rows[:40]), ONES), fit(history(rows), ONES)
    assert short.margin(0.5, ONES) > long.margin(0.5, ONES)
    # the price of ten thousand devices is logarithmic
    assert long.margin(0.5, ONES) < long.margin(0.5 / 10_000, ONES) < 2 * long.margin(0.5, ONES)
    assert short.caution > long.caution > 1


def test_windows_that_are_all_the_same_make_a_baseline():
    found = fit(history(np.ones((144, K))), ONES)
    assert found.steady and np.isfinite(found.covariance).all() and found.scale > 0

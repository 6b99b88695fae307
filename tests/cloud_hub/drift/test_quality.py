"""Faults of inputs, from a window's figures; pure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cloud_hub.drift import bets, outliers, quality
from cloud_hub.drift.outliers import Outliers
from cloud_hub.drift.quality import Key, seen_in, share_below, words
from fleet.protocol.figures import TrainingProfile, planned_figures, summarize_input
from fleet.protocol.manifest import Tensor

PLAN = planned_figures((Tensor(name="x", datatype="FP32", shape=(-1, 3)),))
TOLD = PLAN[0]
RNG = np.random.default_rng(0)
TRAINED = np.stack([RNG.normal(20, 4, 2000), RNG.normal(1000, 30, 2000), RNG.integers(0, 2, 2000)], 1)
PROFILE = TrainingProfile(inputs=(summarize_input(TOLD, list(TRAINED)),), names={"x": ("temperature", "pressure")})


def shares(rows: np.ndarray, profile: TrainingProfile | None = PROFILE, refused: dict[str, int] | None = None) -> dict:
    requests = len(rows) + sum((refused or {}).values())
    seen = seen_in((summarize_input(TOLD, list(rows), refused),), requests, PLAN, profile)
    margins = {key: quality.margin_of(key, found.normal or 0.0) or 1.0 for key, found in seen.items()}
    return {key: found.share for key, found in seen.items() if found.share > margins[key]}


def rows(count: int = 200) -> np.ndarray:
    return TRAINED[:count].copy()


def test_rows_of_the_training_data_are_as_they_should_be() -> None:
    assert shares(rows()) == {}


def test_nan_is_a_share_of_all_requests_refused_ones_included() -> None:
    broken = rows(100)
    broken[:31, 0] = np.nan
    assert shares(broken) == {Key("x", 0, "NaN"): pytest.approx(0.31)}
    assert shares(rows(69), refused={"0": 31}) == {Key("x", 0, "NaN"): pytest.approx(0.31)}
    assert shares(rows(69), refused={"": 31}) == {Key("x", -1, "NaN"): pytest.approx(0.31)}


def test_a_stuck_sensor_is_constant_where_training_was_not() -> None:
    stuck = rows()
    stuck[:, 1] = 1001.5
    assert shares(stuck) == {Key("x", 1, "constant"): 1.0}


def test_values_beyond_training_are_a_share_and_another_unit_is_said() -> None:
    hot = rows()
    hot[::2, 0] += 40
    assert Key("x", 0, "range") in shares(hot)
    fahrenheit = rows()
    fahrenheit[:, 0] *= 1000
    found = shares(fahrenheit)
    assert found[Key("x", 0, "unit")] == 1.0 and found[Key("x", 0, "range")] == 1.0
    small = rows()
    small[:, 1] /= 1000  # kilo: the range sees it, too
    assert Key("x", 1, "unit") in shares(small)


def test_numbers_on_both_sides_of_zero_have_no_unit() -> None:
    """Their median is near 0 by chance, and any stay elsewhere is many times as large."""
    signed = np.column_stack([RNG.normal(0.1, 1, 2000), TRAINED[:, 1:]])
    profile = TrainingProfile(inputs=(summarize_input(TOLD, list(signed)),))
    stay = np.column_stack([RNG.normal(2.5, 0.2, 200), TRAINED[:200, 1:]])
    assert Key("x", 0, "unit") not in shares(stay, profile)


def test_a_load_that_is_often_0_has_a_unit_and_one_that_mostly_is_has_none() -> None:
    load, idle = RNG.normal(50, 5, 2000), RNG.normal(50, 5, 2000)
    load[::10], idle[: 2000 * 6 // 10] = 0.0, 0.0
    trained = np.column_stack([load, -load, idle])
    profile = TrainingProfile(inputs=(summarize_input(TOLD, list(trained)),))
    found = {key for key in shares(trained * 1000, profile) if key.problem == "unit"}
    assert found == {Key("x", 0, "unit"), Key("x", 1, "unit")}
    assert not [key for key in shares(trained, profile) if key.problem == "unit"]


def test_without_the_training_data_range_and_unit_are_not_watched() -> None:
    wild = rows() * 1e6
    assert {key.problem for key in seen_in((summarize_input(TOLD, list(wild)),), 200, PLAN, None)} == {
        "NaN",
        "constant",
    }


def test_few_training_rows_do_not_make_the_next_ones_foreign() -> None:
    few = TrainingProfile(inputs=(summarize_input(TOLD, list(TRAINED[:20])),))
    assert {key for key in shares(TRAINED[20:220], few) if key.problem == "range"} == set()


def test_summaries_of_another_shape_than_the_release_s_are_left_out() -> None:
    other = summarize_input(planned_figures((Tensor(name="x", datatype="FP32", shape=(-1, 2)),))[0], [np.zeros(2)] * 30)
    assert seen_in((other,), 30, PLAN, PROFILE) == {}


@pytest.mark.parametrize("value", [-5.0, 0.0, 0.5, 1.0, 2.0, 3.0, 9.0])
def test_the_share_below_a_value_is_bounded_both_ways(value) -> None:
    data = np.sort(np.random.default_rng(1).normal(1.0, 1.0, 2000))
    quantiles = np.quantile(data, (0.0, 0.05, 0.5, 0.95, 1.0))
    share = (data < value).mean()
    assert share_below(quantiles, value) <= share + 1e-3
    assert share_below(quantiles, value, least=False) >= share - 1e-3


def test_what_is_usual_is_held_against_nobody() -> None:
    assert quality.margin_of(Key("x", 0, "constant"), 0.95, 1000) is None
    few, many = (quality.margin_of(Key("x", 0, "constant"), 0.3, windows) for windows in (30, 3000))
    assert few > many > 0.4


def test_words_name_feature_and_share() -> None:
    names, told = PROFILE.names, {"x": TOLD}
    assert words(Key("x", 0, "NaN"), 0.31, names, told) == "input 'x', temperature: 31 % NaN or infinite"
    assert "feature 2" in words(Key("x", 2, "range"), 0.5, names, told)
    assert words(Key("x", -1, "NaN"), 1.0, names, told) == "input 'x': 100 % NaN or infinite"


def test_bets_keep_their_promise_at_the_margin_and_find_what_is_over_it() -> None:
    """Alarms at the margin come no oftener than once in exp(limit) windows."""
    rng, limit, alarms = np.random.default_rng(0), math.log(200.0), 0
    logs = bets.NOTHING
    for share in rng.binomial(20, 0.1, 20_000) / 20:
        logs = bets.bet(logs, float(share), 0.1)
        if bets.evidence(logs) >= limit:
            alarms, logs = alarms + 1, bets.NOTHING
    assert alarms <= 20_000 / 200
    logs, steps = bets.NOTHING, 0
    while bets.evidence(logs) < bets.limit(1000.0, 1440.0 * 100, 256):
        logs, steps = bets.bet(logs, 0.31, 0.02), steps + 1
    assert steps < 20


def counted(found: Outliers, shares_, start: float = 0.0) -> Outliers:
    for number, share in enumerate(shares_):
        at = start + 600.0 * number
        found = outliers.count(found, float(share), at, at + 600.0, first=30, period_s=86_400.0)
    return found


def test_a_device_where_everything_is_outlying_shows_nothing_more() -> None:
    made = counted(Outliers(), [1.0] * 150)
    assert made.normal == 1.0
    assert bets.evidence(counted(made, [1.0] * 500, 2 * 86_400.0).logs) <= 0


def test_outliers_are_held_to_the_device_s_own_worst_hour() -> None:
    """Nights with a tenth of outliers are no alarm; a fifth at all hours is one."""
    rng = np.random.default_rng(0)
    day = np.where(np.arange(144) < 48, 0.1, 0.01)
    usual = lambda days: rng.binomial(60, np.tile(day, days)) / 60  # noqa: E731
    made = counted(Outliers(), usual(1))
    assert made.normal == pytest.approx(0.1, abs=0.06)
    limit = bets.limit(1000.0, 144.0, 4)
    later = counted(made, usual(30), 86_400.0)
    assert bets.evidence(later.logs) < limit
    bad = counted(later, rng.binomial(60, 0.35, 60) / 60, 31 * 86_400.0)
    assert bets.evidence(bad.logs) >= limit and bad.since >= 30 * 86_400.0
    assert bets.evidence(counted(outliers.accept(bad), rng.binomial(60, 0.35, 200) / 60, 32 * 86_400.0).logs) < limit


def test_a_record_needs_its_period_not_only_its_windows() -> None:
    assert counted(Outliers(), [0.0] * 100).normal is None
    assert counted(Outliers(), [0.0] * 150).normal == 0.0

"""Summaries of numbers: a bounded size, quantiles near the true ones, and the same however they were gathered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleet.protocol.bounds import storable
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.errors import MalformedError
from fleet.protocol.quantiles import CLUSTERS, EMPTY, check_quantiles, merge, quantiles, summarize_numbers
from fleet.protocol.telemetry import QuantileData

SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
RNG = np.random.default_rng(0)
SHAPES = {
    "normal": RNG.normal(size=40_000),
    "far from zero": 300.0 + RNG.normal(scale=1e-3, size=40_000),
    "heavy tails": RNG.standard_cauchy(40_000),
    "skewed": RNG.exponential(size=40_000) ** 3,
    "two heaps": np.concatenate([RNG.normal(-5, 0.1, 30_000), RNG.normal(5, 0.1, 10_000)]),
    "few different": RNG.integers(0, 3, 40_000).astype(float),
    "rising": np.sort(RNG.normal(size=40_000)),
    "the largest": 1.7e308 * RNG.uniform(-1, 1, 40_000),
}


def rank_errors(data: QuantileData, values: np.ndarray) -> list[float]:
    """By how much of all numbers a quantile is off; none where it lies on a heap of equal ones."""
    ordered = np.sort(values)
    errors = []
    for share, found in zip(SHARES, quantiles(data, SHARES), strict=True):
        low, high = np.searchsorted(ordered, [found, found], "left")[0], np.searchsorted(ordered, found, "right")
        errors.append(max(low / len(values) - share, share - high / len(values), 0.0))
    return errors


@pytest.mark.parametrize("name", SHAPES)
def test_quantiles_lie_near_the_true_ones_after_many_merges(name: str) -> None:
    values = SHAPES[name]
    whole = merge(summarize_numbers(part) for part in np.array_split(values, 400))
    daily = merge(
        merge(summarize_numbers(part) for part in np.array_split(days, 20)) for days in np.array_split(values, 20)
    )
    for data in (summarize_numbers(values), whole, daily):
        check_quantiles(data)
        assert sum(data.weights) == len(values) and len(data.means) <= CLUSTERS
        assert (data.low, data.high) == (values.min(), values.max())
        if name != "few different":  # between two of these lies nothing, and so no rank
            assert max(rank_errors(data, values)) < 0.02 and max(rank_errors(data, values)[::6]) < 0.005


def test_a_message_of_it_stays_small() -> None:
    assert len(encode_msgpack(summarize_numbers(SHAPES["heavy tails"]))) < 1600


numbers = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60)


@given(st.lists(numbers, max_size=5))
@example([[1.152921504606847e18, -9.560584265050899e-291]])
def test_any_numbers_give_a_summary_that_a_hub_takes(groups: list[list[float]]) -> None:
    parts = [summarize_numbers(group) for group in groups]
    data = merge(parts)
    finite = sorted(value for group in groups for value in group if math.isfinite(value))
    check_quantiles(data)
    storable({"means": list(data.means), "weights": list(data.weights)}, "window")
    assert sum(data.weights) == len(finite) and merge(reversed(parts)) == data
    if finite:
        assert quantiles(data, (0, 1)) == (finite[0], finite[-1])
        found = quantiles(data, SHARES)
        assert list(found) == sorted(found) and finite[0] <= found[0] and found[-1] <= finite[-1]
    else:
        assert data == EMPTY and quantiles(data, SHARES) == ()


BAD = [
    {"means": (1.0,), "weights": ()},
    {"means": (1.0,), "weights": (0,)},
    {"means": (1.0,), "weights": (-1,)},
    {"means": (1.0,), "weights": (1 << 60,)},
    {"means": (math.nan,), "weights": (1,)},
    {"means": (2.0, 1.0), "weights": (1, 1)},
    {"means": (5.0,), "weights": (1,)},
    {"means": (0.5,) * 300, "weights": (1,) * 300},
    {"means": (), "weights": (), "high": math.inf},
    {"means": (), "weights": (), "high": -1.0},
]


@pytest.mark.parametrize("changes", BAD, ids=str)
def test_what_can_be_no_summary_is_refused(changes: dict) -> None:
    with pytest.raises(MalformedError):
        check_quantiles(QuantileData(**{"low": 0.0, "high": 4.0, **changes}))

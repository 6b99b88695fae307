"""The choice of ranges: min-max keeps all that calibration showed, the others clip what is too dear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from model_compiler.build import litert
from model_compiler.build.calibration import LEVELS, METHODS, QuantizationPlan, ranges
from model_compiler.inputs import sources
from tests.model_compiler.conftest import answers, stripes


def test_the_row_that_reaches_furthest_is_not_clipped(student):
    calibration = stripes(60, seed=4).x
    calibration[0] *= 5.0
    model = litert.convert(student, sources.example_of(calibration))
    quantized = litert.quantize(model, "int8", calibration)
    found = answers("litert-int8", "litert", quantized, calibration[:1])
    with torch.no_grad():
        expected = student(torch.from_numpy(calibration[:1])).numpy()
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def error(values: np.ndarray, low: float, high: float) -> float:
    """The mean squared error of `values` on an 8-bit grid from `low` to `high`."""
    step = (high - low) / LEVELS
    seen = np.clip(np.round((values - low) / step), 0, LEVELS) * step + low
    return float(((seen - values) ** 2).mean())


@given(st.integers(0, 2**32 - 1), st.floats(20.0, 300.0))
def test_an_outlier_is_clipped_where_that_costs_less(seed, outlier):
    values = np.random.default_rng(seed).normal(size=20_001)
    values[0] = outlier
    found = {
        method: ranges(lambda: iter([{"a": part} for part in np.array_split(values, 7)]), method)["a"]
        for method in METHODS
    }
    assert found["min-max"] == (values.min(), values.max())
    low, high = found["percentile"]
    assert np.mean((low <= values) & (values <= high)) > 0.999 and high < outlier / 2
    # The histogram knows values to half a bin only.
    assert error(values, *found["mse"]) <= 1.05 * error(values, *found["min-max"])


@pytest.mark.parametrize("method", METHODS)
def test_what_no_range_can_hold_does_not_count(method):
    values = np.array([-np.inf, -1.0, 2.0, np.nan, -3.4e38], np.float32)
    found = ranges(lambda: iter([{"a": values, "b": np.full(3, -np.inf), "c": np.ones(4)}]), method)
    low, high = found["a"]
    assert -1.0 <= low < high <= 2.0
    assert found["b"] == (0.0, 0.0) and found["c"] == (1.0, 1.0)


@pytest.fixture(scope="module")
def pooling() -> nn.Module:
    """A maximum over padded images: the padding is minus infinity."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1), nn.Flatten(), nn.Linear(64, 3)]
    return nn.Sequential(*layers).eval()


def test_a_padded_maximum_is_quantized_like_any_other(pooling):
    calibration, x = stripes(40, seed=2).x, stripes(40, seed=3).x
    model = litert.convert(pooling, torch.zeros(1, 1, 8, 8))
    with torch.no_grad():
        expected = pooling(torch.from_numpy(x)).numpy()
    for method in METHODS:
        found = answers("int8", "litert", litert.quantize(model, "int8", calibration, QuantizationPlan(method)), x)
        assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()

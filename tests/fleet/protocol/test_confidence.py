"""Calibrated confidence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fleet.protocol.confidence import confidence, probabilities, should_defer
from fleet.protocol.errors import MalformedError

LOGITS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.floats(-1e4, 1e4, width=32)
)


@given(LOGITS, st.floats(0.05, 20))
@settings(deadline=None)
def test_rows_sum_to_one_and_keep_their_class(logits: np.ndarray, temperature: float) -> None:
    result = probabilities(logits, temperature=temperature)
    np.testing.assert_allclose(result.sum(axis=1), 1.0)
    rows = np.arange(len(logits))
    np.testing.assert_array_equal(result[rows, logits.argmax(axis=1)], result.max(axis=1))


def test_known_values() -> None:
    np.testing.assert_allclose(probabilities(np.array([0.0, np.log(3)])), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities(np.array([[0.0, np.log(9)]]), temperature=2), [[0.25, 0.75]])


def test_probabilities_pass_through_and_take_a_temperature() -> None:
    given_probabilities = np.array([[0.1, 0.9]])
    np.testing.assert_allclose(probabilities(given_probabilities, apply_softmax=False), given_probabilities)
    np.testing.assert_allclose(probabilities(given_probabilities, apply_softmax=False, temperature=2), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities(np.array([[0.0, 1.0]]), apply_softmax=False), [[0.0, 1.0]], atol=1e-12)


def test_rows_without_meaning_are_uniform_so_that_they_defer() -> None:
    result = probabilities(np.array([[np.nan, 1.0], [np.inf, 1.0], [5.0, 1.0]]))
    np.testing.assert_allclose(result[:2], 0.5)
    assert confidence(result)[2] > 0.9


def test_deferral_is_strictly_below_the_threshold() -> None:
    assert should_defer(0.79, 0.8) and not should_defer(0.8, 0.8)
    assert should_defer(float("nan"), 0.0)


@pytest.mark.parametrize(
    ("outputs", "temperature"), [(np.zeros((2, 2)), 0), (np.zeros((1, 2, 3)), 1), (np.zeros((1, 0)), 1)]
)
def test_what_makes_no_sense_is_refused(outputs: np.ndarray, temperature: float) -> None:
    with pytest.raises(MalformedError):
        probabilities(outputs, temperature=temperature)

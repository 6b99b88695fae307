"""Calibrated confidence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fleet.protocol.confidence import best, confidence, probabilities, should_defer
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


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.float16]),
        st.integers(1, 300),
        elements=st.floats(-60_000, 60_000, width=16) | st.sampled_from([np.inf, -np.inf, np.nan, 0.0]),
    )
    | hnp.arrays(np.int8, st.integers(1, 300)),
    st.sampled_from([0.05, 0.7, 1.0, 3.3]),
    st.booleans(),
)
@settings(deadline=None)
def test_one_answer_is_judged_to_the_bit_as_many_are(row: np.ndarray, temperature: float, softmax: bool) -> None:
    single = best(row, temperature=temperature, apply_softmax=softmax)
    with np.errstate(invalid="ignore"):
        table = probabilities(row[None], temperature=temperature, apply_softmax=softmax)
    if single is not None:
        assert single == (int(row[None].argmax(axis=1)[0]), float(confidence(table)[0]))
    else:
        assert not np.isfinite(row.astype(np.float64)).all()


@pytest.mark.parametrize("classes", [2, 7, 8, 9, 12, 100, 128, 129, 1000])
def test_one_answer_is_the_same_for_usual_scores(classes: int) -> None:
    for row in np.random.default_rng(0).normal(0, 3, (200, classes)).astype(np.float32):
        assert best(row) == (int(row.argmax()), float(confidence(probabilities(row))[0]))

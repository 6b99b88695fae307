"""The pure parts: intervals, class drops, calibration, thresholds, vectors, data checks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_compiler import deferral, vectors, verdict
from model_compiler.data import load_dataset, make_dataset
from model_compiler.deferral import DeferTarget
from model_compiler.errors import DataError


def test_wilsons_interval_as_published():
    low, high = verdict.wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)


@given(st.integers(1, 500), st.data())
def test_wilsons_interval_holds_the_share(total, data):
    hits = data.draw(st.integers(0, total))
    low, high = verdict.wilson(hits, total)
    assert 0.0 <= low <= hits / total + 1e-9 and hits / total - 1e-9 <= high <= 1.0


def test_the_worst_class_counts_not_the_mean():
    y = np.array([0, 0, 1, 1, 2, 2])
    reference, predicted = y.copy(), np.array([0, 0, 1, 0, 2, 2])
    assert verdict.worst_class_drop(reference, predicted, y) == 0.5


def test_temperature_undoes_overconfidence():
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 5)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = np.array([random.choice(5, p=row) for row in p])
    assert deferral.fit_temperature(3.0 * logits, y, apply_softmax=True) == pytest.approx(3.0, rel=0.1)


def doubtful(n: int = 1000):
    """Logits that are right when they are sure, and a cloud that is always right."""
    random = np.random.default_rng(1)
    y = random.integers(0, 3, n)
    sure = random.random(n) < 0.8
    logits = random.normal(size=(n, 3)) * 0.2
    logits[np.arange(n), np.where(sure, y, (y + 1) % 3)] += np.where(sure, 6.0, 1.0)
    return logits, y


def test_the_threshold_meets_an_error_target_with_few_calls():
    logits, y = doubtful()
    found = deferral.fit(logits, y, y, DeferTarget(error=0.01, cloud=None), apply_softmax=True)
    at = next(p for p in found.curve if p.threshold >= found.threshold)
    assert at.combined_accuracy >= 0.98 and at.cloud_share <= 0.31


def test_the_threshold_keeps_to_a_budget_of_calls():
    logits, y = doubtful()
    found = deferral.fit(logits, y, y, DeferTarget(cloud=0.1), apply_softmax=True)
    from fleet.protocol import confidence

    p = confidence.probabilities(logits, temperature=found.temperature, apply_softmax=True)
    assert float(np.mean(confidence.confidence(p) < found.threshold)) <= 0.1


def test_vectors_cover_the_classes_and_leave_out_near_ties():
    random = np.random.default_rng(2)
    outputs = random.normal(size=(300, 4)).astype(np.float32)
    outputs[0] = [1.0, 1.0, 0.0, 0.0]
    rows = vectors.choose({"a": outputs, "b": outputs + 0.01}, 12)
    assert len(set(rows)) == 12 and 0 not in rows
    assert set(outputs[rows].argmax(axis=1)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("x", "y", "word"),
    [
        (np.zeros((0, 2), np.float32), np.zeros(0, int), "0 inputs"),
        (np.zeros((3, 2), np.float32), np.zeros(2, int), "3 inputs and 2 labels"),
        (np.array([[np.nan, 0.0]]), np.array([0]), "NaN"),
        (np.zeros((2, 2), np.float32), np.array([0.5, 1.0]), "integer class"),
        (np.array([["a"]]), np.array([0]), "numbers"),
    ],
)
def test_bad_data_gets_one_clear_line(x, y, word):
    with pytest.raises(DataError, match=word):
        make_dataset(x, y, "set")


def test_files_that_are_not_data(tmp_path):
    (tmp_path / "text.npz").write_bytes(b"hello")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], dtype=object), y=np.array([0]))
    for name in ("missing.npz", "text.npz", "other.npz", "pickle.npz"):
        with pytest.raises(DataError, match=name):
            load_dataset(tmp_path / name)

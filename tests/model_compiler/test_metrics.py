"""Metrics against sklearn's and by their laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from model_compiler import metrics
from model_compiler.errors import DataError
from tests.support.size import examples

SEEDS = st.integers(0, 2**32 - 1)


def scores(seed: int, classes: int, rows: int = 80) -> tuple[dict[str, np.ndarray], np.ndarray]:
    random = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), random.integers(0, classes, rows - classes)])
    table = random.normal(size=(rows, classes)).round(1) + 1.0 * np.eye(classes)[y]
    return {"logits": table}, y


@settings(max_examples=examples(25), deadline=None)
@given(SEEDS, st.integers(2, 6))
def test_class_metrics_are_the_usual_ones(seed: int, classes: int) -> None:
    outputs, y = scores(seed, classes)
    table, best = outputs["logits"], outputs["logits"].argmax(axis=1)
    assert metrics.parse("accuracy").measure(outputs, y)[0] == pytest.approx(theirs.accuracy_score(y, best))
    f1 = theirs.f1_score(y, best, average="binary" if classes == 2 else "macro")
    assert metrics.parse("f1").score(outputs, y) == pytest.approx(f1)
    if classes == 2:
        auc = theirs.roc_auc_score(y, table[:, 1] - table[:, 0])
    else:
        auc = np.mean([theirs.roc_auc_score(y == label, table[:, label]) for label in range(classes)])
        apart = table - 1e-3 * np.arange(classes)  # no ties
        top = theirs.top_k_accuracy_score(y, apart, k=2, labels=range(classes))
        assert metrics.parse("top-2").measure({"logits": apart}, y)[0] == pytest.approx(top)
    assert metrics.parse("auc").score(outputs, y) == pytest.approx(auc)


@settings(max_examples=examples(10), deadline=None)
@given(SEEDS, st.sampled_from(["accuracy", "auc", "f1", "top-2", "mae", "rmse"]))
def test_the_interval_holds_the_value_and_narrows_with_more_samples(seed: int, name: str) -> None:
    metric = metrics.parse(name)
    outputs, y = scores(seed, 3, 600)
    if not metric.classes:
        outputs, y = {"output": outputs["logits"][:, 0]}, np.zeros(600, np.float32)
    value, (low, high) = metric.measure(outputs, y)
    assert low <= value <= high
    few, (lower, higher) = metric.measure({k: v[:60] for k, v in outputs.items()}, y[:60])
    assert lower <= few <= higher and higher - lower > high - low


def test_one_column_is_the_score_of_class_one() -> None:
    y = np.array([0, 1, 1, 0])
    for column in ([-2.0, 3.0, 0.5, -1.0], [0.1, 0.9, 0.6, 0.4]):
        outputs = {"p": np.array(column, np.float32)[:, None]}
        assert metrics.parse("accuracy").measure(outputs, y)[0] == 1.0
        assert metrics.parse("auc").score(outputs, y) == 1.0


def test_errors_count_the_other_way_round() -> None:
    metric = metrics.parse("rmse")
    assert not metric.higher_is_better and metric.points(1.1, 1.0) == pytest.approx(10)
    assert metrics.parse("accuracy").points(0.9, 0.95) == pytest.approx(5)


def test_exact_means_every_value() -> None:
    values = np.arange(12).reshape(3, 4)
    changed = values.copy()
    changed[1, 2] += 1
    assert metrics.parse("exact").measure({"output": changed}, values)[0] == pytest.approx(2 / 3)


def test_a_users_function_is_a_metric(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def worst(outputs, y):\n    return abs(outputs['a'] - y).max()\nworst.lower_is_better = True\n")
    metric = metrics.parse(f"{file}:worst")
    assert not metric.higher_is_better
    assert metric.score({"a": np.array([1.0, 5.0])}, np.array([1.0, 2.0])) == 3.0
    with pytest.raises(DataError, match=r"mine\.py: worst\(\) failed: KeyError"):
        metric.score({"b": np.zeros(2)}, np.zeros(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_cannot_be_ranked_are_named(bad: float) -> None:
    scores = np.array([[0.1], [bad], [0.9]])
    with pytest.raises(DataError, match="NaN or infinite"):
        metrics.parse("auc").score({"p": scores}, np.array([0, 1, 1]))


@pytest.mark.parametrize("name", ["top-0", "accurate", "none.py:f", "auc:x"])
def test_unknown_metrics_are_refused_by_name(name: str) -> None:
    with pytest.raises(Exception, match=name.split(":")[0]):
        metrics.parse(name)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(DataError, match="needs \\(n, classes\\)"):
        metrics.parse("accuracy").measure({"x": np.zeros((4, 2, 2))}, np.zeros(4, int))
    with pytest.raises(DataError, match="both classes"):
        metrics.parse("auc").score({"x": np.zeros((4, 2))}, np.zeros(4, int))
    with pytest.raises(DataError, match="y has"):
        metrics.parse("mae").score({"x": np.zeros((4, 2))}, np.zeros((4, 3)))

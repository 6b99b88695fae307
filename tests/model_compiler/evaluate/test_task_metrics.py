"""Metrics of tasks: against published evaluations, and with intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as theirs

from model_compiler import metrics
from model_compiler.errors import DataError
from model_compiler.evaluate.tasking import metric_for_task, parse
from model_compiler.evaluate.verdict import notes
from model_compiler.metrics import Metric

RANDOM = np.random.default_rng(0)


def metric(task: str, name: str = "", labels: tuple[str, ...] = (), y: np.ndarray | None = None) -> Metric:
    asked = metrics.parse(name) if name else None
    return metric_for_task(parse(task), asked, labels, np.zeros(1) if y is None else y)


def test_a_multi_label_s_metrics_are_the_usual_ones() -> None:
    y = RANDOM.integers(0, 2, (80, 3))
    scores = (y + RANDOM.normal(size=(80, 3))).astype(np.float32)
    probabilities = 1 / (1 + np.exp(-scores))
    names = ("a", "b", "c")
    expected = {
        "f1": theirs.f1_score(y, probabilities >= 0.5, average="macro"),
        "map": theirs.average_precision_score(y, probabilities, average="macro"),
        "jaccard": theirs.jaccard_score(y, probabilities >= 0.5, average="samples", zero_division=1.0),
    }
    for name, value in expected.items():
        found, (low, high) = metric("multi-label:logits=true", name, names).measure({"s": scores}, y)
        assert found == pytest.approx(value) and low < found < high
    assert metric("multi-label", labels=names).name == "f1"


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_a_detector_s_precision_at_an_overlap() -> None:
    """Two images, one class: the best box is right, the next is no box's, the third is right, one box is missed.

    Precision at recall 1/3 is 1 and at 2/3 is 2/3; 101 recalls: 34 of them at 1, 33 at 2/3, 34 at 0.
    """
    y = np.full((2, 2, 5), -1, np.float32)
    y[0] = boxes((0, 0, 10, 10, 0), (50, 50, 60, 60, 0))
    y[1, 0] = boxes((0, 0, 10, 10, 0))[0]
    out = np.zeros((2, 3, 6), np.float32)
    out[0, :2] = boxes((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 0))
    out[1, 0] = boxes((0, 0, 10, 9, 0.7, 0))[0]
    measured = metric("detection:layout=rows", "map", ("cup",))
    assert measured.measure({"boxes": out}, y)[0] == pytest.approx((34 + 33 * 2 / 3) / 101)
    # at 0.95 the third box, which overlaps by 0.9, is wrong
    strict = metric("detection:layout=rows,iou=0.95", "map", ("cup",))
    assert strict.measure({"boxes": out}, y)[0] == pytest.approx(34 / 101)
    coco = metric("detection:layout=rows", "map-coco", ("cup",)).measure({"boxes": out}, y)[0]
    assert coco == pytest.approx((9 * (34 + 22) + 34) / 1010)


def test_a_box_is_found_once_and_in_its_class() -> None:
    y = np.array([[[0, 0, 10, 10, 1]]], np.float32)
    twice = boxes((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 10, 0.8, 1))[None]
    measured = metric("detection:layout=rows", "map", ("cup", "plate"))
    assert measured.score(measured.reading({"b": twice}, y), y) == 1.0  # type: ignore[misc]
    other = boxes((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0))[None]
    assert measured.measure({"b": other}, y)[0] == 0.0


def test_embeddings_are_measured_by_neighbours_or_by_direction() -> None:
    labels = np.array([b"cat", b"cat", b"dog", b"dog", b"cow"], object)
    near = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0]], np.float32)
    assert metric("embedding", y=labels).measure({"e": near}, labels)[0] == pytest.approx(0.8)
    assert metric("embedding", "recall-at-4", y=labels).measure({"e": near}, labels)[0] == pytest.approx(0.8)
    wanted = metric("embedding", y=near)
    assert wanted.name == "cosine" and wanted.measure({"e": 3 * near}, near)[0] == pytest.approx(1.0)


def test_an_anomaly_s_score_ranks() -> None:
    y = RANDOM.integers(0, 2, 60)
    scores = (y + RANDOM.normal(size=60)).astype(np.float32)
    found, (low, high) = metric("anomaly-score:threshold=0.5").measure({"s": scores[:, None]}, y)
    assert found == pytest.approx(theirs.roc_auc_score(y, scores)) and low < found < high


@pytest.mark.filterwarnings("error")
def test_draws_that_say_nothing_do_not_count() -> None:
    """With one anomaly among twelve, every third draw has none."""
    y = np.array([1] + [0] * 11)
    scores = np.linspace(1, 0, 12)[:, None].astype(np.float32)
    assert metric("anomaly-score:threshold=0.5").measure({"s": scores}, y) == (1.0, (1.0, 1.0))


def test_numbers_have_a_share_of_explained_variance() -> None:
    y = RANDOM.normal(size=(50, 2)).astype(np.float32)
    close = y + 0.1 * RANDOM.normal(size=y.shape).astype(np.float32)
    found = metric("regression:tolerance=1", "r2").measure({"v": close}, y)[0]
    assert found == pytest.approx(theirs.r2_score(y, close), abs=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.parse("map").score({"s": np.zeros((2, 2))}, np.zeros(2)), "is for a multi-label or detection"),
        (lambda: metric("regression:tolerance=1", "map"), "not for a regression"),
        (lambda: metric("custom"), "a custom needs a metric"),
        (lambda: metric("multi-label", labels=("a",)).measure({"s": np.zeros((2, 1))}, np.zeros(2)), "of 0 and 1"),
    ],
)
def test_what_a_metric_cannot_say_is_refused_in_words(call: Callable[[], object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        call()


def test_scores_that_are_turned_round_are_said_where_chance_does_not_explain_them() -> None:
    auc = metrics.parse("auc")
    (said,) = notes(auc, 0.1, 0.1, 1.0, 1.0, most=0.2)
    assert "turned round" in said and "more must mean an anomaly" in said
    assert (
        notes(auc, 0.4, 0.4, 1.0, 1.0, most=0.6) == []
        and notes(metrics.parse("f1"), 0.1, 0.1, 1.0, 1.0, most=0.2) == []
    )

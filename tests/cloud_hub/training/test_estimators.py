"""Estimators of scikit-learn as a recipe's `fit` returns them: what they answer is what the task scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import RidgeClassifier, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC, OneClassSVM

from cloud_hub.training.models import Made, source_of

ROWS = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
KINDS = (ROWS[:, 0] > 0).astype(int) + (ROWS[:, 1] > 1)


def answers(fitted: Any) -> np.ndarray:
    onnx = source_of(fitted, {"x": ROWS})
    assert isinstance(onnx, bytes)
    return Made(("score",), onnx=onnx).answers({"X": ROWS})["score"]


@pytest.mark.parametrize(
    "estimator",
    [OneClassSVM(), make_pipeline(StandardScaler(), IsolationForest(n_estimators=5, random_state=0))],
    ids=["svm", "forest"],
)
def test_an_outlier_detector_s_score_grows_with_strangeness(estimator: Any) -> None:
    """Its label comes first, and is 1 for what is usual; its decision function is below zero for an outlier."""
    found = answers(estimator.fit(ROWS))
    assert found.shape == (len(ROWS), 1)
    assert found.ravel() == pytest.approx(-estimator.decision_function(ROWS), abs=1e-4)
    assert ((found.ravel() > 0) == (estimator.predict(ROWS) == -1)).mean() > 0.98


@pytest.mark.parametrize("estimator", [LinearSVC(), RidgeClassifier(), SGDClassifier(random_state=0)], ids=repr)
def test_a_classifier_without_probabilities_answers_its_scores(estimator: Any) -> None:
    found = answers(estimator.fit(ROWS, KINDS))
    assert found.shape == (len(ROWS), 3) and found.dtype == np.float32
    assert (found.argmax(axis=1) == estimator.predict(ROWS)).mean() > 0.98


@pytest.mark.parametrize(
    "estimator",
    [RidgeClassifier(), SGDClassifier(random_state=0), SVC(), make_pipeline(StandardScaler(), LinearSVC())],
    ids=["one score", "both", "both turned round", "of a pipeline"],
)
def test_of_two_classes_each_has_its_score(estimator: Any) -> None:
    found = answers(estimator.fit(ROWS, KINDS > 0))
    assert found.shape == (len(ROWS), 2)
    assert (found.argmax(axis=1) == estimator.predict(ROWS)).mean() > 0.98
    assert found[:, 1] == pytest.approx(estimator.decision_function(ROWS), abs=1e-3)

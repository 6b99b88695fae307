"""Metrics: how good a model's outputs are, with a 95 % confidence interval; with scikit-learn and scipy. Pure.

accuracy, top-K  share of samples whose class is right, or among the K best; Wilson's interval
auc              area under the ROC curve; binary, or the mean of one-against-rest over the classes
f1               binary (class 1), or the mean over the classes
mae, rmse, r2    error of numbers (lower is better); share of their variance that is explained
cosine           mean cosine between output and `y`, both (n, dimensions)
recall-at-K      share of samples with one of the same `y` among their K nearest others, by cosine
exact            share of samples whose output equals `y` value by value
FILE.py:NAME     a function (outputs: dict[str, array], y: array) -> float; `NAME.lower_is_better = True` turns it
Those that a task gives its meaning are in `task_metrics`. Where no closed form is at hand the interval is the
percentile bootstrap's over samples (400 draws, seeded).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.bounds import whole_number
from model_compiler.errors import DataError
from model_compiler.intervals import most_lost, wilson

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]  # by name, each (n, …); the first one is what labels speak about
DRAWS = 400


class OneClassError(DataError):
    """The samples are all of one class, so that nothing can be said."""


@dataclass(frozen=True)
class Metric:
    """`score(outputs, y)` gives the value; `hits`, where there is one, says right or wrong per sample.

    `classes` says that the first output ranks classes and `y` holds one of them per sample. `alike`, where the task
    says it, is how much outputs agree with a reference's, from 0 to 1. `needs` names the tasks that give the metric
    its meaning (`task_metrics`); without one of them it says nothing. `reading(outputs, y)`, where there is one, is
    done once for all draws of an interval: its arrays, one row per sample, are what `score` then gets.
    """

    name: str
    score: Callable[[Outputs, Array], float]
    higher_is_better: bool = True
    classes: bool = False
    hits: Callable[[Array, Array], Array] | None = None
    alike: Callable[[Outputs, Outputs], float] | None = None
    needs: tuple[str, ...] = ()
    reading: Callable[[Outputs, Array], Outputs] | None = None

    def measure(self, outputs: Outputs, y: Array) -> tuple[float, tuple[float, float]]:
        """The value and its 95 % interval."""
        if self.reading is not None:
            outputs = self.reading(outputs, y)
        if self.hits is not None:
            right = self.hits(first(outputs), y)
            return float(right.mean()), wilson(int(right.sum()), len(right))
        return self.score(outputs, y), self._bootstrap(outputs, y)

    def points(self, value: float, reference: float) -> float:
        """By how much `value` is worse: percentage points, or for errors the percentage by which they grew."""
        if self.higher_is_better:
            return 100 * (reference - value)
        return 100 * (value - reference) / max(abs(reference), 1e-12)

    def most_points(self, outputs: Outputs, reference: Outputs, y: Array) -> float:
        """Return the upper bound, with 95 % confidence, of `points` of the outputs against the reference's, row by row.

        Of answers that are right or wrong by two exact binomial bounds (Clopper and Pearson, 1934), on the share that
        was lost and on the share that was won, at half the level each (Bonferroni), so that it holds for any number of
        rows. Of other metrics by drawing the rows again, the same for both (paired bootstrap, Efron, 1979).
        """
        if self.hits is not None:
            ours, theirs = self.hits(first(outputs), y), self.hits(first(reference), y)
            return 100 * most_lost(int((theirs & ~ours).sum()), int((ours & ~theirs).sum()), len(y))
        if self.reading is not None:
            outputs, reference = self.reading(outputs, y), self.reading(reference, y)
        drawn = self._drawn(lambda rows: self.points(self._of(outputs, y, rows), self._of(reference, y, rows)), len(y))
        value = self.points(self.score(outputs, y), self.score(reference, y))
        return float(np.percentile(drawn, 95)) if len(drawn) else value

    def _bootstrap(self, outputs: Outputs, y: Array) -> tuple[float, float]:
        """Over samples (percentile interval)."""
        drawn = self._drawn(lambda rows: self._of(outputs, y, rows), len(y))
        if not len(drawn):
            return (value := self.score(outputs, y)), value
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)

    def _of(self, outputs: Outputs, y: Array, rows: Array) -> float:
        return self.score({name: array[rows] for name, array in outputs.items()}, y[rows])

    def _drawn(self, value: Callable[[Array], float], count: int) -> Array:
        """Return `value` of `count` rows drawn again and again; a draw of which the metric says nothing, such as one
        with a single class, does not count.

        Source: B. Efron, "Bootstrap methods: another look at the jackknife", 1979.
        """
        from scipy.stats import bootstrap

        def one(rows: Array) -> float:
            try:
                return value(rows)
            except OneClassError:
                return float("nan")

        if count < 2:
            return np.zeros(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy warns of the draws that say nothing
            found = bootstrap((np.arange(count),), one, n_resamples=DRAWS, vectorized=False, method="percentile", rng=0)
        drawn: Array = found.bootstrap_distribution
        return drawn[~np.isnan(drawn)]


def first(outputs: Outputs) -> Array:
    """The output that labels speak about."""
    return next(iter(outputs.values()))


def table(scores: Array) -> Array:
    """Class scores as (n, classes); one column is the score of class 1 against class 0. Raises DataError."""
    scores = scores.reshape(len(scores), 1) if scores.ndim == 1 else scores
    if scores.dtype.kind == "O":
        raise DataError("the first output is text; a class metric needs scores", hint="--metric exact compares text")
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise DataError(
            f"the first output has shape {[-1, *scores.shape[1:]]}; a class metric needs (n, classes)",
            hint="choose another --metric, or let the first output be the class scores",
        )
    if scores.shape[1] > 1:
        return scores
    middle = 0.5 if scores.min() >= 0 and scores.max() <= 1 else 0.0  # probabilities, or logits
    return np.concatenate([2 * middle - scores, scores], axis=1)


def predicted(scores: Array) -> Array:
    """The best class of every row of (n, classes)."""
    best: Array = table(scores).argmax(axis=1)
    return best


def auc(scores: Array, positive: Array) -> float:
    """The area under the ROC curve of scores (n,) for who is `positive` (n,), by ranks: an interval asks for hundreds.

    Source: J. A. Hanley and B. J. McNeil, "The meaning and use of the area under a ROC curve", 1982.

    Raises:
        OneClassError: all samples are of one class. DataError: a score is NaN or infinite.
    """
    from scipy.stats import rankdata

    if positive.all() or not positive.any():
        raise OneClassError("the area under the ROC curve needs both classes in y")
    if not np.isfinite(scores).all():
        raise DataError("the area under the ROC curve needs finite scores, some are NaN or infinite")
    count = int(positive.sum())
    ranks = rankdata(scores)[positive].sum()  # of equal scores the mean: a pair of them counts half
    return float((ranks - count * (count + 1) / 2) / (count * (len(scores) - count)))


def mean_f1(found: Array, right: Array) -> float:
    """The mean F1 over the columns of two tables (n, classes) of truth values; of a class that nobody has it is 1.

    Source: as scikit-learn's `f1_score(average="macro", zero_division=1.0)`.
    """
    hits = (found & right).sum(axis=0)
    either = found.sum(axis=0) + right.sum(axis=0)
    return float(np.divide(2.0 * hits, either, out=np.ones(len(hits)), where=either > 0).mean())


def _auc(outputs: Outputs, y: Array) -> float:
    scores = table(first(outputs)).astype(np.float64)
    if scores.shape[1] == 2:
        return auc(scores[:, 1] - scores[:, 0], y == 1)
    return float(np.mean([auc(scores[:, label], y == label) for label in np.unique(y)]))


def _f1(outputs: Outputs, y: Array) -> float:
    scores = table(first(outputs))
    labels = np.array([1]) if scores.shape[1] == 2 else np.arange(scores.shape[1])
    return mean_f1(scores.argmax(axis=1)[:, None] == labels, y[:, None] == labels)


def _r2(outputs: Outputs, y: Array) -> float:
    """Source: scikit-learn's `r2_score`; of several values the mean over them."""
    from sklearn.metrics import r2_score

    difference = _error(outputs, y)  # refuses what does not fit
    if len(y) < 2:
        raise OneClassError("the explained variance needs two samples")
    return float(r2_score(y.reshape(len(y), -1), (difference + y).reshape(len(y), -1)))


def directions(values: Array) -> Array:
    """Rows (n, dimensions) of length 1; a row of zeros stays one."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Array = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return found


def _cosine(outputs: Outputs, y: Array) -> float:
    mine, theirs = directions(first(outputs)), directions(y)
    if mine.shape != theirs.shape:
        raise DataError(f"the first output has shape {list(mine.shape)}, y has {list(y.shape)}")
    return float((mine * theirs).sum(axis=1).mean())


def _recall_at(count: int) -> Metric:
    """Of embeddings; a sample whose label no other one has can have no hit."""

    def score(outputs: Outputs, y: Array) -> float:
        rows = directions(first(outputs))
        if y.ndim != 1:
            raise DataError(f"the labels of an embedding are one per sample, y has {list(y.shape)}")
        near = rows @ rows.T
        np.fill_diagonal(near, -np.inf)
        best = np.argsort(-near, axis=1, kind="stable")[:, :count]
        return float((y[best] == y[:, None]).any(axis=1).mean())

    return Metric(f"recall-at-{count}", score)


def _error(outputs: Outputs, y: Array) -> Array:
    """Differences (n, …); where both are NaN, or the same infinity, there is none."""
    if "O" in (first(outputs).dtype.kind, y.dtype.kind):
        raise DataError("text has no error in numbers", hint="--metric exact compares text")
    values = first(outputs).astype(np.float64)
    if values.shape != y.shape and values.size == y.size:
        values = values.reshape(y.shape)
    if values.shape != y.shape:
        raise DataError(f"the first output has shape {list(values.shape)}, y has {list(y.shape)}")
    same = (values == y) | (np.isnan(values) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        difference: Array = np.where(same, 0.0, values - y)
    return difference


def _exactly(values: Array, y: Array) -> Array:
    if values.size != y.size:
        raise DataError(f"the first output has shape {list(values.shape)}, y has {list(y.shape)}")
    mine, right = values.reshape(len(y), -1), y.reshape(len(y), -1)
    same = np.asarray(mine == right, dtype=bool)
    if mine.dtype.kind == right.dtype.kind == "f":
        same |= np.isnan(mine) & np.isnan(right)
    hits: Array = np.all(same, axis=1)
    return hits


def _top(count: int) -> Metric:
    def hits(scores: Array, y: Array) -> Array:
        ranked = np.argsort(-table(scores), axis=1, kind="stable")[:, :count]
        right: Array = (ranked == y[:, None]).any(axis=1)
        return right

    name = "accuracy" if count == 1 else f"top-{count}"
    return Metric(name, lambda o, y: float(hits(first(o), y).mean()), classes=True, hits=hits)


_KNOWN = {
    "accuracy": _top(1),
    "auc": Metric("auc", _auc, classes=True),
    "f1": Metric("f1", _f1, classes=True),
    "mae": Metric("mae", lambda o, y: float(np.abs(_error(o, y)).mean()), higher_is_better=False),
    "rmse": Metric("rmse", lambda o, y: float(np.sqrt((_error(o, y) ** 2).mean())), higher_is_better=False),
    "r2": Metric("r2", _r2),
    "cosine": Metric("cosine", _cosine),
    "exact": Metric("exact", lambda o, y: float(_exactly(first(o), y).mean()), hits=_exactly),
}


OF_TASKS = {  # metrics that a task gives their meaning
    "jaccard": ("multi-label",),
    "map": ("multi-label", "detection"),
    "map-coco": ("detection",),
}


def parse(text: str) -> Metric:
    """A metric by its name; see the module.

    Raises:
        DataError: unknown, or the user's file cannot be loaded.
    """
    if text in _KNOWN:
        return _KNOWN[text]
    if text.startswith("top-") and (most := whole_number(text[4:])):
        return _top(most)
    if text.startswith("recall-at-") and (most := whole_number(text[10:])):
        return _recall_at(most)
    if text in OF_TASKS:
        return Metric(text, _without_task(text), needs=OF_TASKS[text])
    path, _, name = text.partition(":")
    if path.endswith(".py") and name:
        return _users(Path(path), name)
    raise DataError(
        f"unknown metric {text!r}",
        subject=text,
        hint=f"one of {', '.join((*_KNOWN, *OF_TASKS))}, top-K, recall-at-K, or file.py:function",
    )


def _without_task(name: str) -> Callable[[Outputs, Array], float]:
    def score(outputs: Outputs, y: Array) -> float:
        tasks = " or ".join(OF_TASKS[name])
        raise DataError(f"the metric {name} is for a {tasks}", subject=name, hint=f"--task {OF_TASKS[name][0]}:…")

    return score


def default(y: Array) -> Metric:
    """Accuracy where `y` holds one integer per sample, equality for text, else the root mean squared error."""
    if y.dtype.kind == "O":
        return _KNOWN["exact"]
    return _KNOWN["accuracy" if y.ndim == 1 and y.dtype.kind in "iu" else "rmse"]


def _users(path: Path, name: str) -> Metric:
    from model_compiler.user_file import run_file, said

    function = getattr(run_file(path), name, None)
    if not callable(function):
        raise DataError(f"{path}: has no function {name}", subject=str(path))

    def score(outputs: Outputs, y: Array) -> float:
        # The function is the user's own program and may raise anything; this is the boundary that names it.
        try:
            return float(function(dict(outputs), y))
        except Exception as error:
            raise DataError(f"{path}: {name}() failed: {said(error)}", subject=str(path)) from error

    return Metric(name, score, higher_is_better=not getattr(function, "lower_is_better", False))

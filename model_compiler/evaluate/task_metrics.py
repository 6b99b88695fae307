"""Metrics that a task gives their meaning: which answers are right is the task's to say, not an arg-max's. Pure.

multi-label    f1 (the mean over the classes), map (mean average precision), jaccard (mean share of classes in both)
detection      map at the task's IoU (0.5), map-coco (the mean over IoU 0.5, 0.55, … 0.95)
anomaly-score  auc of the score
embedding      recall-at-1 where `y` says what belongs together, cosine where `y` holds what shall come out
Labels are `y` (n, …) as `Task.stack` has them; a detection's are (n, most, 5): a box's corners and its class number,
-1 as the class of what fills up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fleet.protocol.task import TaskSpec
from fleet.tasks.boxes import overlaps
from model_compiler.errors import DataError
from model_compiler.inputs.dataset import Array
from model_compiler.metrics import OF_TASKS, Metric, OneClassError, Outputs, auc, first, mean_f1, parse

Read = Callable[[Outputs], tuple[Any, ...]]  # outputs (n, …) to the task's n answers
COCO = tuple(np.arange(0.5, 1.0, 0.05).round(2).tolist())
RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's
DEFAULTS = {"regression": "rmse", "anomaly-score": "auc", "multi-label": "f1", "detection": "map"}


def metric_for(spec: TaskSpec, asked: Metric | None, read: Read, y: Array) -> Metric:
    """The metric that was asked for as the task means it, else the task's own.

    Args:
        spec: the task; not a classification.
        read: how its answers are read.
        y: the labels.

    Raises:
        DataError: the metric is of another task, or the task has none of its own.
    """
    name = asked.name if asked is not None else _own(spec, y)
    if asked is not None and asked.needs and spec.name not in asked.needs:
        raise DataError(
            f"the metric {name} is for a {' or '.join(OF_TASKS[name])}, not for a {spec.name}", subject=name
        )
    if spec.name == "multi-label" and name in ("f1", "map", "jaccard"):
        return Metric(name, _multi_label(name), reading=lambda outputs, right: _tables(outputs, right, read))
    if spec.name == "detection" and name in ("map", "map-coco"):
        ious = COCO if name == "map-coco" else (spec.iou or 0.5,)
        return Metric(name, _mean_precision, reading=lambda outputs, right: _matches(read(outputs), right, ious))
    if spec.name == "anomaly-score" and name == "auc":
        return Metric(name, lambda outputs, right: auc(_scores(outputs), right.reshape(-1) == 1))
    found = asked if asked is not None else parse(name)
    return replace(found, classes=False) if found.hits is None else found


def _own(spec: TaskSpec, y: Array) -> str:
    if spec.name == "embedding":
        return "recall-at-1" if y.ndim == 1 else "cosine"
    if spec.name not in DEFAULTS:
        raise DataError(f"a {spec.name} needs a metric", hint="--metric file.py:function, or exact, rmse, …")
    return DEFAULTS[spec.name]


def _scores(outputs: Outputs) -> Array:
    scores: Array = first(outputs).astype(np.float64).reshape(len(first(outputs)), -1)[:, 0]
    return scores


def _tables(outputs: Outputs, y: Array, read: Read) -> Outputs:
    """`found` (n, classes), 1 where an answer has the class, and the scores."""
    _check_columns(y)
    found = np.zeros(y.shape, np.int64)
    for row, classes in enumerate(read(outputs)):
        found[row, list(classes)] = 1
    return {"found": found, "scores": first(outputs)}


def _check_columns(y: Array) -> None:
    if y.ndim != 2 or not np.isin(y, (0, 1)).all():
        raise DataError(
            "the labels of a multi-label are (n, classes) of 0 and 1", hint="write y with a column for every class"
        )


def _multi_label(name: str) -> Callable[[Outputs, Array], float]:
    """Source: scikit-learn's `jaccard_score`, and `average_precision_score` over the classes in `y`."""
    from sklearn.metrics import average_precision_score, jaccard_score

    def score(tables: Outputs, y: Array) -> float:
        right = y.astype(np.int64)
        if name == "f1":
            return mean_f1(tables["found"] == 1, right == 1)
        if name == "jaccard":
            return float(jaccard_score(right, tables["found"], average="samples", zero_division=1.0))
        present = right.any(axis=0)
        if not present.any():
            raise OneClassError("no sample has any class")
        return float(average_precision_score(right[:, present], tables["scores"][:, present], average="macro"))

    return score


class _Match(NamedTuple):
    """One sample's boxes of one class at one overlap: scores, whether each has found a label's box, those labels."""

    scores: Array
    hits: Array
    total: int


def _matches(answers: Sequence[Any], y: Array, ious: Sequence[float]) -> Outputs:
    """Per sample the matches by class and overlap; boxes are matched best score first, as COCO's evaluation does it."""
    if y.ndim != 3 or y.shape[2] != 5:
        raise DataError(
            f"the labels of a detection are (n, boxes, 5): corners and class, y has {list(y.shape)}",
            hint="fill up with rows of -1",
        )
    found = np.empty(len(answers), object)
    for row, (answer, labels) in enumerate(zip(answers, y, strict=True)):
        kinds = {*labels[labels[:, 4] >= 0, 4].astype(int).tolist(), *answer.classes.tolist()}
        found[row] = {(kind, iou): _match(answer, labels, kind, iou) for kind in kinds for iou in ious}
    return {"matches": found}


def _match(answer: Any, labels: Array, kind: int, iou: float) -> _Match:
    """Each box with the free one of its class that it overlaps most."""
    right, mine = labels[labels[:, 4] == kind, :4].astype(np.float64), answer.classes == kind
    hits, free = np.zeros(int(mine.sum())), np.ones(len(right), bool)
    shared = overlaps(answer.boxes[mine], right)
    for place in range(len(hits) if len(right) else 0):
        best = int(np.argmax(np.where(free, shared[place], -1.0)))
        if free[best] and shared[place, best] >= iou:
            free[best], hits[place] = False, 1.0
    return _Match(answer.scores[mine], hits, len(right))


def _mean_precision(outputs: Outputs, y: Array) -> float:
    """Mean average precision over the classes in `y` and the overlaps: precision made monotonous, read at 101 recalls.

    Source: Lin et al., "Microsoft COCO: Common Objects in Context", 2014, and pycocotools' `COCOeval`.
    """
    by_kind: dict[tuple[int, float], list[_Match]] = {}
    for row in outputs["matches"]:
        for key, match in row.items():
            by_kind.setdefault(key, []).append(match)
    known = [found for found in by_kind.values() if sum(match.total for match in found)]
    if not known:
        raise OneClassError("no sample has a box")
    return float(np.mean([_average_precision(found) for found in known]))


def _average_precision(found: Sequence[_Match]) -> float:
    scores = np.concatenate([match.scores for match in found])
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(np.concatenate([match.hits for match in found])[order])
    recall = right / sum(match.total for match in found)
    precision = np.maximum.accumulate((right / np.arange(1, len(order) + 1))[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.where(places < len(precision), precision[np.minimum(places, len(precision) - 1)], 0.0).mean())

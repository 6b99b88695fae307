"""The correctness of answers, sample by sample, as the task defines it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.tasks import Task
from fleet.tasks.detection import Detections
from model_compiler.inputs.dataset import Array


def agreements(task: Task[Any], answers: Sequence[Any], y: Array) -> Array | None:
    """Return how much each answer agrees with its label, in [0, 1], (n,); None where the task judges only sets.

    Args:
        task: an embedding's labels say only what belongs together, and a custom task's are its metric's matter.
        answers: the task's, of n samples.
        y: the labels (n, …), see `task_metrics`; others, which only a user's own metric knows, say nothing here.
    """
    answer_of = _RIGHT.get(task.name)
    if answer_of is None or y.ndim != _AXES.get(task.name, y.ndim):
        return None
    pairs = zip(answers, y, strict=True)
    return np.array([task.agreement(answer, answer_of(task, label)) for answer, label in pairs], np.float64)


def right(task: Task[Any], answers: Sequence[Any], y: Array) -> npt.NDArray[np.bool_] | None:
    """Return whether each answer counts as its label, (n,); None as with `agreements`."""
    found = agreements(task, answers, y)
    needed = task.agree_at if task.spec.agree_at is None else task.spec.agree_at
    return None if found is None else found >= needed


def _side(task: Task[Any], label: Any) -> float:
    limit = task.spec.threshold or 0.0
    return limit if np.asarray(label).reshape(-1)[0] else math.nextafter(limit, -math.inf)


def _boxes(task: Task[Any], label: Array) -> Detections:
    known = label[label[:, 4] >= 0]
    return Detections(known[:, :4].astype(np.float64), np.ones(len(known)), known[:, 4].astype(np.int64))


_RIGHT: dict[str, Callable[[Task[Any], Any], Any]] = {
    "classification": lambda task, label: int(label),
    "multi-label": lambda task, label: tuple(np.flatnonzero(label).tolist()),
    "regression": lambda task, label: tuple(np.asarray(label, np.float64).reshape(-1).tolist()),
    "anomaly-score": _side,
    "detection": _boxes,
}
_AXES = {"classification": 1, "multi-label": 2, "detection": 3}  # of labels that are the task's own

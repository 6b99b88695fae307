"""Tells whether two models are one: a teacher that is the student's own float model judges nothing but itself. Pure.

They are compared by their answers to the validation inputs, not by their weights: exporters fold, fuse and rename, and
a twin in half precision has other numbers. Scores of classes are compared as log-probabilities about their mean, so
that it does not matter which of the two ends with a softmax.
"""

from __future__ import annotations

import numpy as np

from model_compiler.inputs.dataset import Array
from model_compiler.metrics import Outputs

SAME = 0.005  # of an output's spread: half precision moves answers by less, another training by far more
LEAST_P = 1e-6  # smaller probabilities are all alike: half precision has none


def is_twin(ours: Outputs, theirs: Outputs) -> bool | None:
    """Return whether all real-valued outputs are the same but for rounding; None where nothing tells.

    Args:
        ours, theirs: answers to the same inputs, by name (n, …).
    """
    told = False
    for name, mine in ours.items():
        other = theirs.get(name)
        if other is None or mine.dtype.kind != "f" or other.dtype.kind != "f":
            continue
        if mine.shape != other.shape:
            return False
        mine, other = _comparable(mine), _comparable(other)
        finite = np.isfinite(mine) & np.isfinite(other)
        spread = float(mine[finite].std()) if finite.any() else 0.0
        if not spread:
            continue
        told = True
        if float(np.sqrt(np.mean((mine[finite] - other[finite]) ** 2))) > SAME * spread:
            return False
    return True if told else None


def _comparable(values: Array) -> Array:
    """Return an output's numbers as float64; of several columns, as scores of classes have them, log-probabilities."""
    found = values.astype(np.float64)
    if found.ndim != 2 or found.shape[1] < 2 or not np.isfinite(found).all():
        return found
    if found.min() >= 0.0 and np.abs(found.sum(axis=1) - 1.0).max() <= 0.05:  # probabilities already
        logs = np.log(np.maximum(found, LEAST_P))
    else:
        logs = found - np.logaddexp.reduce(found, axis=1, keepdims=True)
    logs = np.maximum(logs, np.log(LEAST_P))
    centred: Array = logs - logs.mean(axis=1, keepdims=True)
    return centred

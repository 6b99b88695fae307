"""Tells whether two models are one: a teacher that is the student's own float model judges nothing but itself. Pure.

They are compared by their answers to the validation inputs, not by their weights: exporters fold, fuse and rename, and
a twin in half precision has other numbers. Scores of classes are compared as log-probabilities about their mean, so
that it does not matter which of the two ends with a softmax; a lone score is compared as a logit where one of the two
ends with a sigmoid.
"""

from __future__ import annotations

import numpy as np

from model_compiler.inputs.dataset import Array
from model_compiler.metrics import Outputs

SAME = 0.005  # of an output's spread: half precision moves answers by less, another training by far more
LEAST_P = 1e-6  # smaller probabilities are all alike: half precision has none
SURE = 9.2  # a logit of 0.9999: beyond it, a probability does not tell the logit


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
        mine, other = _column(mine), _column(other)
        if mine.shape != other.shape:
            return False
        same = _is_same(mine, other)
        if same is False:
            return False
        told = told or same is True
    return True if told else None


def _column(values: Array) -> Array:
    """Return an output's numbers as float64, those of a single column without its axis."""
    found: Array = values.astype(np.float64)
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def _is_same(mine: Array, other: Array) -> bool | None:
    found = _are_near(_comparable(mine), _comparable(other))
    if found is not False or mine.ndim != 1 or _is_share(mine) == _is_share(other):
        return found
    if _are_near(_probability(mine), _probability(other)) is False:
        return False
    # Of two that are nearly sure, probabilities are near whatever the models are.
    return True if _are_near(_logit(mine), _logit(other)) else None


def _are_near(mine: Array, other: Array) -> bool | None:
    """Return whether numbers are the same but for rounding; None where the first never change."""
    finite = np.isfinite(mine) & np.isfinite(other)
    spread = float(mine[finite].std()) if finite.any() else 0.0
    if not spread:
        return None
    return float(np.sqrt(np.mean((mine[finite] - other[finite]) ** 2))) <= SAME * spread


def _is_share(values: Array) -> bool:
    finite = values[np.isfinite(values)]
    return bool(len(finite)) and finite.min() >= 0.0 and finite.max() <= 1.0


def _probability(values: Array) -> Array:
    if _is_share(values):
        return values
    found: Array = np.exp(-np.logaddexp(0.0, -values))
    return found


def _logit(values: Array) -> Array:
    """Return logits; NaN where a probability would not tell them."""
    with np.errstate(divide="ignore"):
        found = np.log(values) - np.log1p(-values) if _is_share(values) else values
    logits: Array = np.where(np.abs(found) <= SURE, found, np.nan)
    return logits


def _comparable(values: Array) -> Array:
    """Return the numbers; of several columns, as scores of classes have them, log-probabilities."""
    found = values
    if found.ndim != 2 or found.shape[1] < 2 or not np.isfinite(found).all():
        return found
    if found.min() >= 0.0 and np.abs(found.sum(axis=1) - 1.0).max() <= 0.05:  # probabilities already
        logs = np.log(np.maximum(found, LEAST_P))
    else:
        logs = found - np.logaddexp.reduce(found, axis=1, keepdims=True)
    logs = np.maximum(logs, np.log(LEAST_P))
    centred: Array = logs - logs.mean(axis=1, keepdims=True)
    return centred

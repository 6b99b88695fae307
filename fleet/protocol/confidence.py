"""From a model's outputs to calibrated confidence; hub, compiler and agent compute it alike here.

The temperature is fitted after quantization and lies in the manifest (`Deferral.temperature`).
Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (temperature scaling).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.errors import MalformedError
from fleet.protocol.finite import is_finite

_TINY = np.finfo(np.float64).tiny


def probabilities(
    outputs: npt.NDArray[Any], *, temperature: float = 1.0, apply_softmax: bool = True
) -> npt.NDArray[np.float64]:
    """Class probabilities at a temperature, in double precision.

    Args:
        outputs: (n, classes) or (classes,): logits, or probabilities when `apply_softmax` is false
            (their logarithms are then rescaled, which for temperature 1 changes nothing but the sum).
        temperature: positive; above 1 is less sure.

    Returns:
        (n, classes); every row sums to 1. A row without a finite value is uniform: no confidence.

    Raises:
        MalformedError: not one or two dimensions, no classes, or a temperature that is not positive.
    """
    if not temperature > 0:
        raise MalformedError(f"temperature {temperature} must be above 0", subject="deferral")
    values = np.asarray(outputs, dtype=np.float64)
    if values.ndim == 1:
        values = values[None, :]
    if values.ndim != 2 or values.shape[1] == 0:
        raise MalformedError(f"class scores must be (n, classes), not {list(outputs.shape)}", subject="outputs")
    if not apply_softmax:
        values = np.log(np.maximum(values, _TINY))
    with np.errstate(invalid="ignore", over="ignore"):
        # In place, and by the ufuncs themselves: for one row nearly all of the time is numpy's way to them.
        result: npt.NDArray[np.float64] = values / temperature
        np.subtract(result, np.maximum.reduce(result, axis=1, keepdims=True), out=result)
        np.exp(result, out=result)
        np.divide(result, np.add.reduce(result, axis=1, keepdims=True), out=result)
    if not is_finite(result):
        result[~np.isfinite(result).all(axis=1)] = 1.0 / values.shape[1]
    return result


def best(row: npt.NDArray[Any], *, temperature: float = 1.0, apply_softmax: bool = True) -> tuple[int, float] | None:
    """Class and confidence of a single answer: to the bit what `probabilities` and `confidence` give, at a third of
    their time, which is what numpy takes to begin for one row.

    Args:
        row: (classes,): as a row of `probabilities`' outputs.

    Returns:
        None for a row that they have to judge: without a class, or with values that are not finite.
    """
    if row.ndim != 1 or not row.size or not temperature > 0:
        return None
    values = row.astype(np.float64)
    if not apply_softmax:
        values = np.log(np.maximum(values, _TINY))
    if temperature != 1.0:
        np.divide(values, temperature, out=values)
    top = int(values.argmax())
    highest = values.item(top)
    if not math.isfinite(highest):
        return None
    values -= highest
    np.exp(values, values)
    total = float(np.add.reduce(values))
    if not math.isfinite(total):
        return None
    # The highest is exp(0) = 1, so its share is 1 / total. Logarithms and temperature may make ties of scores that
    # are none, so the class is by the scores themselves.
    return (top if apply_softmax and temperature == 1.0 else int(row.argmax())), 1.0 / total


def confidence(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The top probability of each row: (n, classes) → (n,)."""
    top: npt.NDArray[np.float64] = np.maximum.reduce(probabilities, axis=1)
    return top


def should_defer(confidence: float, threshold: float) -> bool:
    """Tell whether the cloud is asked: the confidence lies under the threshold (or is not a number)."""
    return not confidence >= threshold

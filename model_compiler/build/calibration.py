"""Chooses a tensor's range from what calibration inputs make of it. Pure.

min-max     the extremes over all samples: nothing is clipped
percentile  all but the outermost 0.01 % on each side
mse         the range whose 8-bit grid gives the least squared error over all values
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Method = Literal["min-max", "percentile", "mse"]
METHODS: tuple[Method, ...] = ("min-max", "percentile", "mse")
BINS, TAIL, LEVELS = 2048, 1e-4, 255
BOUND = 3e38  # beyond lie paddings with minus infinity, before a maximum: no range can hold them
SHRINKS = np.linspace(1.0, 0.3, 36)

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]  # one sample's activations by tensor name
Pass = Callable[[], Iterable[Tensors]]  # runs the model over all samples
Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class QuantizationPlan:
    """A way to quantize: the calibration method, and the operators (by id) that stay in float."""

    calibration: Method = "min-max"
    float_operators: frozenset[str] = frozenset()

    def describe(self) -> str:
        """In words, for notes and reports; empty for the ordinary plan."""
        words = [] if self.calibration == "min-max" else [f"calibrated by {self.calibration}"]
        if self.float_operators:
            count = len(self.float_operators)
            words.append(f"{count} operator{'s' if count > 1 else ''} kept in float")
        return ", ".join(words)


def ranges(samples: Pass, method: Method) -> Ranges:
    """The range of every tensor; `percentile` and `mse` take a second pass for histograms of bounded size."""
    found: Ranges = {}
    for tensors in samples():
        for name, values in tensors.items():
            if not np.abs(values).max(initial=0) < BOUND:
                values = values[np.abs(values) < BOUND]
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = float(values.min(initial=low)), float(values.max(initial=high))
    found = {name: (low, high) if low <= high else (0.0, 0.0) for name, (low, high) in found.items()}
    if method == "min-max":
        return found
    counts = {name: np.zeros(BINS) for name in found}
    for tensors in samples():
        for name, values in tensors.items():
            counts[name] += np.histogram(values, bins=BINS, range=found[name])[0]
    narrowed = _percentile if method == "percentile" else _least_error
    return {name: narrowed(counts[name], low, high) for name, (low, high) in found.items()}


def _percentile(counts: Array, low: float, high: float) -> tuple[float, float]:
    """The bins' edges that hold all but the tails."""
    edges = np.linspace(low, high, BINS + 1)
    share = np.cumsum(counts) / max(counts.sum(), 1)
    first = int(np.searchsorted(share, TAIL))
    last = int(np.searchsorted(share, 1 - TAIL))
    return float(edges[first]), float(edges[min(last + 1, BINS)])


def _least_error(counts: Array, low: float, high: float) -> tuple[float, float]:
    """Shrink both ends alike, towards zero where the range holds it, and keep the range of least squared error."""
    if high <= low:
        return low, high
    centre = min(max(0.0, low), high)
    values = np.linspace(low, high, BINS, endpoint=False) + (high - low) / (2 * BINS)
    best, chosen = np.inf, (low, high)
    for shrink in SHRINKS:
        bottom, top = centre + (low - centre) * shrink, centre + (high - centre) * shrink
        step = (top - bottom) / LEVELS
        seen = np.clip(np.round((values - bottom) / step), 0, LEVELS) * step + bottom
        error = float((counts * (seen - values) ** 2).sum())
        if error < best:
            best, chosen = error, (float(bottom), float(top))
    return chosen

"""Mergeable summaries of numbers that answer "which value do half of them stay under?" in a bounded size.

A summary keeps at most `CLUSTERS` means with weights. The weight that a cluster may have is largest in the middle and
smallest at both ends, where the least and the largest number are kept as they are. So a quantile is found within about
1.6 % of the rank in the middle, and much nearer at the ends, whatever the numbers' scale; summaries of windows and
devices merge into one of the same size. Nothing is drawn at random: the same numbers give the same summary.

Source: Dunning & Ertl, "Computing extremely accurate quantiles using t-digests", 2019: the merging digest with scale
function k1; a cluster is what lies between two whole values of k1 times `CLUSTERS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fleet.protocol.bounds import check_count
from fleet.protocol.errors import MalformedError
from fleet.protocol.telemetry import QuantileData

Floats = npt.NDArray[np.float64]

CLUSTERS = 100  # about 1.5 KiB in a message
MOST_CLUSTERS = 256  # of a summary from elsewhere
MOST_WEIGHT = 1 << 50
EMPTY = QuantileData(low=0.0, high=0.0)


def summarize_numbers(values: Iterable[float], clusters: int = CLUSTERS) -> QuantileData:
    """The summary of some numbers; NaN and infinity are left out, and without any other the summary is empty."""
    array = np.fromiter(values, np.float64)
    array = np.sort(array[np.isfinite(array)])
    if not array.size:
        return EMPTY
    return _clustered(array, np.ones(array.size, np.int64), float(array[0]), float(array[-1]), clusters)


def merge(parts: Iterable[QuantileData], clusters: int = CLUSTERS) -> QuantileData:
    """One summary of all that the parts stand for; their order changes nothing. It passes `check_quantiles` where they
    do: weights that are too large together become smaller in proportion."""
    some = [part for part in parts if part.means]
    if not some:
        return EMPTY
    means = np.concatenate([np.asarray(part.means, np.float64) for part in some])
    weights = np.concatenate([np.asarray(part.weights, np.int64) for part in some])
    order = np.lexsort((weights, means))
    low, high = min(part.low for part in some), max(part.high for part in some)
    return _clustered(means[order], weights[order], low, high, clusters)


def quantiles(data: QuantileData, shares: Sequence[float]) -> tuple[float, ...]:
    """The values that these shares (0 to 1) of the numbers stay under; empty of an empty summary."""
    if not data.means:
        return ()
    weights = np.asarray(data.weights, np.float64)
    ends = np.cumsum(weights)
    ranks = np.concatenate([[0.0], ends - weights / 2, [ends[-1]]])
    line = np.asarray([data.low, *data.means, data.high])
    scale = _scale(data.low, data.high)
    at = np.asarray(shares) * ends[-1]
    found = np.interp(at, ranks, line / scale) * scale
    # The ends as they are: a number that is tiny beside the other end loses digits on the scale of both.
    found = np.where(at <= 0, data.low, np.where(at >= ends[-1], data.high, found))
    return tuple(np.clip(found, data.low, data.high).tolist())


def check_quantiles(data: QuantileData) -> None:
    """Raise MalformedError unless a summary from elsewhere can be one: bounded, finite, in order."""
    if len(data.means) != len(data.weights) or len(data.means) > MOST_CLUSTERS:
        raise MalformedError(f"quantiles: {len(data.means)} means, {len(data.weights)} weights", subject="quantiles")
    for weight in data.weights:
        check_count(weight - 1, "the weight of a cluster", MOST_WEIGHT)
    line = np.asarray([data.low, *data.means, data.high])
    if not np.isfinite(line).all() or (np.diff(line) < 0).any():
        raise MalformedError("quantiles: they do not rise, or are not finite", subject="quantiles")


def _clustered(means: Floats, weights: npt.NDArray[np.int64], low: float, high: float, clusters: int) -> QuantileData:
    """Join neighbours; `means` rise."""
    ends = np.cumsum(weights, dtype=np.float64)
    middles = (ends - weights / 2) / ends[-1]
    place = np.floor(clusters * (np.arcsin(2 * middles - 1) / np.pi + 0.5))
    starts = np.flatnonzero(np.diff(place, prepend=-1.0))
    scale = _scale(low, high)
    sums = np.add.reduceat(weights.astype(np.float64), starts)  # exact up to 2^53, and beyond it never below zero
    joined = np.add.reduceat(means / scale * weights, starts) / sums * scale
    rising = np.maximum.accumulate(np.clip(joined, low, high))  # rounding never takes a mean beyond its neighbours
    fitting = np.maximum(np.rint(sums * min(1.0, MOST_WEIGHT / sums.max())), 1.0).astype(np.int64)
    return QuantileData(low=low, high=high, means=tuple(rising.tolist()), weights=tuple(fitting.tolist()))


def _scale(low: float, high: float) -> float:
    """Return the divisor of numbers that keeps their sums from overflowing: a power of two, which rounds nothing."""
    _, exponent = math.frexp(max(abs(low), abs(high)))
    return math.ldexp(1.0, exponent - 1)

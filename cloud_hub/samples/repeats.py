"""Groups of points that are nearly the same. Pure.

Two are alike when they lie nearer than `NEAR` of the distance of random pairs, and nearer than any two of so many
independent ones are likely to: in few dimensions these lie close, too. All points that are alike to one point are one
group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
NEAR = 0.1  # of the median distance of random pairs
DIMENSIONS = 64  # that distances are taken in: random projections keep them to about a tenth (Johnson, Lindenstrauss)
PAIRS, BLOCK = 2000, 1000


def points_of(inputs: Mapping[str, Array]) -> Array | None:
    """Samples as points (n, dimensions): each input of numbers counts alike; None where there is none."""
    columns = []
    for array in inputs.values():
        if array.dtype.kind not in "fiub":
            return None
        flat = array.reshape(len(array), -1).astype(np.float64)
        if not np.isfinite(flat).all():
            return None
        spread = float(np.sqrt(((flat - flat.mean(axis=0)) ** 2).sum(axis=1).mean())) if len(flat) else 0.0
        columns.append(flat / spread if spread > 0 else np.zeros_like(flat))
    points: Array = np.concatenate(columns, axis=1)
    if points.shape[1] <= DIMENSIONS:
        return points
    projection = np.random.default_rng(0).normal(size=(points.shape[1], DIMENSIONS)) / np.sqrt(DIMENSIONS)
    projected: Array = points @ projection
    return projected


def pair_distances(points: Array) -> npt.NDArray[np.float64]:
    """The distances of `PAIRS` random pairs of points (n, dimensions), drawn by a seed; n is at least 1."""
    one, other = np.random.default_rng(0).integers(0, len(points), (2, PAIRS))
    distances: npt.NDArray[np.float64] = np.linalg.norm(points[one] - points[other], axis=1)
    return distances


def grouped(points: Array, exact: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The group of every point, int64 (n,), numbered from 0.

    Args:
        points: (n, dimensions), finite; n is at least 2.
        exact: int64 (n,): groups of exact repeats, which stay together.
    """
    typical = float(np.median(pair_distances(points)))
    return _joined(points, exact, _near(points) * typical) if typical > 0 else exact


def _near(points: Array) -> float:
    """Return the distance below which samples are alike, as a share of that of random pairs.

    Of n² / 2 independent pairs in d dimensions, the nearest lies at about n^(-2 / d) of the usual distance; d is the
    participation ratio of the covariance's eigenvalues.
    """
    spread = np.linalg.eigvalsh(np.atleast_2d(np.cov(points, rowvar=False)))
    squares = float((spread**2).sum())
    dimensions = float(spread.sum() ** 2) / squares if squares > 0 else 1.0
    return float(min(NEAR, 0.5 * len(points) ** (-2 / max(dimensions, 1.0))))


def _joined(points: Array, exact: npt.NDArray[np.int64], near: float) -> npt.NDArray[np.int64]:
    """The groups of repeats, joined where their first members are near."""
    first = np.unique(exact, return_index=True)[1]
    distinct = points[first]
    squares = (distinct**2).sum(axis=1)
    parent = np.arange(len(distinct))
    for start in range(0, len(distinct), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(distinct)))
        earlier = np.arange(rows[-1] + 1)
        distances = squares[rows, None] + squares[None, earlier] - 2 * distinct[rows] @ distinct[earlier].T
        close = (distances < near**2) & (earlier[None] < rows[:, None])
        for place in np.flatnonzero(close.any(axis=1)):
            _join(parent, int(rows[place]), np.flatnonzero(close[place]))
    roots = np.array([_root(parent, place) for place in range(len(parent))])
    return np.unique(roots, return_inverse=True)[1][exact].astype(np.int64)


def _join(parent: Array, row: int, others: Array) -> None:
    roots = {_root(parent, int(other)) for other in others} | {_root(parent, row)}
    lowest = min(roots)
    for root in roots:
        parent[root] = lowest


def _root(parent: Array, place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]  # shorter the next time
        place = int(parent[place])
    return place

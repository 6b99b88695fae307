"""Which samples are nearly the same, so that all of them fall on one side of a split. Pure.

A video holds a scene, a sensor stands still: such samples are one observation. One that is trained on and one that
judges would flatter the model. Two samples are alike when they lie nearer than `NEAR` of what random pairs do, and
nearer than any two of so many independent ones are likely to: in few dimensions these lie close, too. What is alike to
the same sample is one group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.training.data_checks import keys_of
from cloud_hub.training.examples import Examples

Array = npt.NDArray[Any]
NEAR = 0.1  # of the median distance of random pairs
MOST = 20_000  # samples: above, only exact repeats are one group
DIMENSIONS = 64  # that distances are taken in: random projections keep them to about a tenth (Johnson, Lindenstrauss)
PAIRS, BLOCK = 2000, 1000


def groups(samples: Examples) -> npt.NDArray[np.int64]:
    """The group of every sample, int64 (n,), numbered from 0; samples with NaN or text group by exact repeats."""
    places: dict[bytes, int] = {}
    exact = np.array([places.setdefault(key, len(places)) for key in keys_of(samples)], np.int64)
    points = _points(samples.inputs) if 2 <= len(samples) <= MOST else None
    if points is None:
        return exact
    random = np.random.default_rng(0)
    one, other = random.integers(0, len(points), (2, PAIRS))
    typical = float(np.median(np.linalg.norm(points[one] - points[other], axis=1)))
    return _joined(points, exact, _near(points) * typical) if typical > 0 else exact


def split(group: npt.NDArray[np.int64], order: npt.NDArray[np.int64], sizes: tuple[int, ...]) -> list[Array]:
    """Rows in parts of about the given sizes and a last one with the rest, no group in two of them.

    Args:
        group: of every row.
        order: all rows, drawn at random: a group comes when its first row does.
        sizes: of the parts; one is never larger. A group that does not fit into any goes to the rest.

    Returns:
        The rows of each part, in the order of `order`.
    """
    members: dict[int, list[int]] = {}
    for row in order.tolist():
        members.setdefault(int(group[row]), []).append(row)
    part_of: dict[int, int] = {}
    left = list(sizes)
    for number, rows in members.items():
        part = next((place for place, room in enumerate(left) if len(rows) <= room), len(sizes))
        part_of[number] = part
        if part < len(sizes):
            left[part] -= len(rows)
    parts = np.array([part_of[int(group[row])] for row in order], np.int64)
    return [order[parts == place] for place in range(len(sizes) + 1)]


def _points(inputs: Mapping[str, Array]) -> Array | None:
    """The samples as points (n, dimensions): each input of numbers counts alike; None where there is none."""
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


def _near(points: Array) -> float:
    """How near, as a share of what random pairs are, samples are alike.

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

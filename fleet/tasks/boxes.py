"""Boxes: (k, 4) corners x1, y1, x2, y2 in any unit; how much they overlap, and which belong together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fleet.protocol.tensors import AnyArray

Floats = npt.NDArray[np.float64]
FORMATS = ("xyxy", "yxyx", "xywh", "cxcywh")


def corners(boxes: AnyArray, form: str) -> Floats:
    """Corners x1, y1, x2, y2 of boxes (k, 4) in one of `FORMATS` (xywh: corner and size; cxcywh: centre and size)."""
    a, b, c, d = np.asarray(boxes, np.float64).reshape(-1, 4).T
    if form == "yxyx":
        a, b, c, d = b, a, d, c
    elif form == "xywh":
        c, d = a + c, b + d
    elif form == "cxcywh":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return np.stack([a, b, c, d], axis=1)


def overlaps(one: Floats, other: Floats) -> Floats:
    """Intersection over union of every pair: (k, 4), (m, 4) → (k, m). Boxes without an area overlap nothing but
    themselves."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        shared = np.prod(np.clip(high - low, 0.0, None), axis=2)
        union = _areas(one)[:, None] + _areas(other)[None, :] - shared
        found = np.where(union > 0, shared / union, 0.0)
    same = (one[:, None, :] == other[None, :, :]).all(axis=2)
    return np.where(same, 1.0, np.clip(np.nan_to_num(found), 0.0, 1.0))


def suppress(boxes: Floats, scores: Floats, classes: npt.NDArray[np.int64], iou: float) -> list[int]:
    """Suppress boxes that overlap a better one of their class (non-maximum suppression).

    Args:
        boxes: (k, 4) corners.
        scores: (k,).
        classes: (k,) numbers.
        iou: the overlap beyond which one goes, in [0, 1].

    Returns:
        The indices that stay, best first.
    """
    left = [int(place) for place in np.argsort(-scores, kind="stable")]
    over = (overlaps(boxes, boxes) > iou) & (classes[:, None] == classes[None, :])
    kept: list[int] = []
    for place in left:
        if not over[place, kept].any():
            kept.append(place)
    return kept


def matched(allowed: npt.NDArray[np.bool_]) -> int:
    """Count the pairs that can be made, (k, m) → 0 to min(k, m), each row and column in one at most.

    Source: H. Kuhn, "The Hungarian method for the assignment problem", 1955 (augmenting paths). The number does not
    depend on the order, so that two answers agree with each other alike.
    """
    partner: dict[int, int] = {}
    columns = [np.flatnonzero(row).tolist() for row in allowed]

    def placed(row: int, tried: set[int]) -> bool:
        known = [column for column in columns[row] if column not in tried]
        for column in sorted(known, key=partner.__contains__):  # free ones first: most rows end there
            tried.add(column)
            if column not in partner or placed(partner[column], tried):
                partner[column] = row
                return True
        return False

    return sum(placed(row, set()) for row in range(len(allowed)))


def _areas(boxes: Floats) -> Floats:
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None)
    return np.asarray(sides[:, 0] * sides[:, 1])

"""Groups of samples that are nearly the same, so that all of one fall on one side of a split. Pure.

A video holds a scene, a sensor stands still: such samples are one observation. One that is trained on and one that
judges would flatter the model. `cloud_hub.samples.repeats` says what is alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.samples.repeats import grouped, points_of
from cloud_hub.training.data_checks import keys_of
from cloud_hub.training.examples import Examples

Array = npt.NDArray[Any]
MOST = 20_000  # samples: above, only exact repeats are one group


def groups(samples: Examples) -> npt.NDArray[np.int64]:
    """The group of every sample, int64 (n,), numbered from 0; samples with NaN or text group by exact repeats."""
    places: dict[bytes, int] = {}
    exact = np.array([places.setdefault(key, len(places)) for key in keys_of(samples)], np.int64)
    points = points_of(samples.inputs) if 2 <= len(samples) <= MOST else None
    return exact if points is None else grouped(points, exact)


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

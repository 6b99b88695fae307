"""A recipe's data: inputs by name, and labels of any task as arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.errors import InvalidError
from model_compiler.inputs.dataset import UNNAMED, Array, refuse_lost

FILL = -1  # the class of the rows that fill up a detection's labels


@dataclass(frozen=True)
class Examples:
    """`x` holds the inputs: arrays (n, …) by name, or one array of a model with one input, which then has the model's
    own name. `y` holds the labels of the n rows:

    classification  int64 (n,): class numbers
    multi-label     (n, classes) of 0 and 1
    regression      floats (n,) or (n, values)
    anomaly-score   int64 (n,): 1 for an anomaly
    embedding       text or integers (n,): rows with the same one belong together
    detection       (n, most, 5): corners x1, y1, x2, y2 and class number of each box; -1 as the class fills up
    custom          what the task's metric takes, (n, …)

    `known` says which rows have a label, bool (n,); without it (None) all rows have one, but integers below 0 mark
    those without. `labelled` says it in either case.
    """

    x: Array | Mapping[str, Array]
    y: Array
    known: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def inputs(self) -> Mapping[str, Array]:
        """Each input by its name; an array alone is `UNNAMED`."""
        return self.x if isinstance(self.x, Mapping) else {UNNAMED: self.x}

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """The rows that have a label, (n,)."""
        if self.known is not None:
            return self.known
        if self.y.ndim == 1 and self.y.dtype.kind in "iu":
            found: npt.NDArray[np.bool_] = self.y >= 0
            return found
        return np.ones(len(self.y), bool)

    def with_labels(self) -> Examples:
        """The rows that have a label."""
        return self.take(np.flatnonzero(self.labelled))

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Examples:
        """The rows with these numbers."""
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return self._with(inputs, self.y[rows], None if self.known is None else self.known[rows])

    def join(self, other: Examples) -> Examples:
        """Both, one after the other; `other` has the same inputs and labels of the same kind."""
        theirs = other.inputs
        both = {name: np.concatenate([array, theirs[name]]) for name, array in self.inputs.items()}
        known = None if self.known is other.known is None else np.concatenate([self.labelled, other.labelled])
        return self._with(both, _joined(self.y, other.y), known)

    def renamed(self, names: Mapping[str, str]) -> Examples:
        """The same with the inputs called by `names` (old to new), in that order."""
        return Examples({new: self.inputs[old] for old, new in names.items()}, self.y, self.known)

    def cast(self, dtypes: Mapping[str, Any]) -> Examples:
        """The same with other dtypes of the inputs, which have names; raises DataError for values that these cannot
        hold."""
        with np.errstate(over="ignore", invalid="ignore"):
            inputs = {name: array.astype(dtypes[name], copy=False) for name, array in self.inputs.items()}
        for name, array in inputs.items():
            if array is not self.inputs[name]:
                refuse_lost(name, self.inputs[name], array)
        return Examples(inputs, self.y, self.known)

    def _with(self, inputs: Mapping[str, Array], y: Array, known: npt.NDArray[np.bool_] | None) -> Examples:
        return Examples(inputs if isinstance(self.x, Mapping) else inputs[UNNAMED], y, known)


def _joined(one: Array, other: Array) -> Array:
    """Labels one after the other; those of detections are filled up to the same number of boxes."""
    if one.ndim == other.ndim == 3 and one.shape[1] != other.shape[1]:
        most = max(one.shape[1], other.shape[1])
        one, other = (
            np.pad(part, ((0, 0), (0, most - part.shape[1]), (0, 0)), constant_values=FILL) for part in (one, other)
        )
    return np.concatenate([one, other])


@dataclass(frozen=True)
class Sets:
    """Disjoint sets. `calibration` tunes quantization, `validation` gives the verdict, `exam` only measures."""

    train: Examples
    calibration: Examples
    validation: Examples
    exam: Examples

    def each(self, change: Callable[[Examples], Examples]) -> Sets:
        """The sets, each of them changed."""
        return Sets(change(self.train), change(self.calibration), change(self.validation), change(self.exam))


def labels_like(y: Any, rows: npt.NDArray[np.int64], count: int, like: Array) -> Array:
    """Labels of some of `count` rows as an array (count, …) of the same kind as a recipe's own, `like`.

    Args:
        y: the labels of `rows`, as `Task.stack` gives them.
        rows: the numbers of the rows that have one.

    Raises:
        InvalidError: they are of another kind than the recipe's.
    """
    if isinstance(y, list):
        y = _boxes(y) if like.ndim == 3 else np.asarray(y)
        if y.ndim == 3 and y.shape[1] < like.shape[1]:
            y = np.pad(y, ((0, 0), (0, like.shape[1] - y.shape[1]), (0, 0)), constant_values=FILL)
    found = np.asarray(y)
    wanted = found.shape[1:] if like.ndim == 3 else like.shape[1:]
    kinds = "US" if like.dtype.kind in "US" else "iufb"
    if found.dtype.kind not in kinds or (found.size and found[:1].size != int(np.prod(wanted, dtype=int))):
        raise InvalidError(
            f"the snapshot's labels are {found.dtype} {['n', *found.shape[1:]]}, the recipe's "
            f"{like.dtype} {['n', *like.shape[1:]]}".replace("'", ""),
            subject="recipe",
            hint="let the recipe's y be what the samples' labels are: see Examples",
        )
    dtype = found.dtype if like.dtype.kind in "US" else like.dtype
    whole = np.full((count, *wanted), FILL if dtype.kind in "if" else "", dtype)
    whole[rows] = found.reshape(len(rows), *wanted)
    return whole


def _boxes(y: list[Any]) -> Array:
    """Pairs of corners (k, 4) and class numbers (k,) as (n, most, 5)."""
    most = max([len(kinds) for _, kinds in y], default=0)
    found = np.full((len(y), most, 5), FILL, np.float32)
    for row, (boxes, kinds) in enumerate(y):
        found[row, : len(kinds), :4], found[row, : len(kinds), 4] = boxes, kinds
    return found

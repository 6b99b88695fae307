"""Tasks whose answers are numbers: values to be met, a score against a threshold, a direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fleet.protocol.errors import MalformedError
from fleet.protocol.tensors import AnyArray
from fleet.tasks.base import Outputs, Task

NAME_LIMIT = 255  # characters of an embedding's label


class Regression(Task[tuple[float, ...]]):
    """One or more numbers per answer: the first output, (n,) or (n, values)."""

    name = "regression"
    summarises = "values"
    used = frozenset({"tolerance", "low", "high"})

    def answers(self, outputs: Outputs) -> tuple[tuple[float, ...], ...]:
        """The numbers of every row."""
        return tuple(tuple(row.astype(np.float64).tolist()) for row in self.first(outputs))

    def agreement(self, one: tuple[float, ...], other: tuple[float, ...]) -> float:
        """The share of the values that lie within the tolerance of each other."""
        return within(one, other, self.spec.tolerance or 0.0)

    def label(self, value: object) -> float | list[float]:
        """A number, or for several values a list of as many."""
        width = _width(self.outputs[0].shape)
        if not isinstance(value, list | tuple):
            if width not in (1, -1):
                raise self.wrong(value, f"a list of {width} numbers")
            return self.number_of(value)
        if width not in (len(value), -1) or not value:
            raise self.wrong(value, f"a list of {width} numbers" if width > 1 else "a number")
        return [self.number_of(item) for item in value] if width != 1 else self.number_of(value[0])

    def right(self, answer: tuple[float, ...], label: Any) -> float:
        """The share of the values that lie within the tolerance of the label's."""
        return within(answer, label, self.spec.tolerance or 0.0)

    def stack(self, labels: Sequence[Any]) -> AnyArray:
        """Stack labels as float64 (n, values).

        Raises:
            MalformedError: they have different numbers of values.
        """
        rows = [np.asarray(label, np.float64).reshape(-1) for label in labels]
        widths = sorted({row.size for row in rows})
        if len(widths) > 1:
            found = " and ".join(map(str, widths))
            raise MalformedError(
                f"labels of a {self.name} have {found} numbers", subject="label", hint="label every row with as many"
            )
        return np.stack(rows) if rows else np.zeros((0, max(_width(self.outputs[0].shape), 1)))

    def values(self, answer: tuple[float, ...]) -> tuple[float, ...]:
        """The numbers."""
        return answer

    def check(self) -> None:
        """There must be a tolerance, and the range must not be empty."""
        super().check()
        if self.spec.tolerance is None or self.spec.tolerance < 0:
            hint = "--task regression:tolerance=T, in the output's unit: how far two good answers may lie apart"
            raise self._unfit("needs a tolerance of at least 0", hint)
        if self.spec.low is not None and self.spec.high is not None and self.spec.low > self.spec.high:
            raise self._unfit(f"has low {self.spec.low:g} above high {self.spec.high:g}", "exchange them")


class AnomalyScore(Task[float]):
    """One score per answer: the first output, (n,) or (n, 1). At or above the threshold it is an anomaly."""

    name = "anomaly-score"
    summarises = "values"
    used = frozenset({"threshold"})

    def answers(self, outputs: Outputs) -> tuple[float, ...]:
        """Return the score of every row.

        Raises:
            MalformedError: a row has several numbers.
        """
        rows = self.first(outputs)
        if any(row.size != 1 for row in rows):
            raise MalformedError(f"an anomaly score is one number, not {rows[0].size}", subject="outputs")
        return tuple(float(row[0]) for row in rows)

    def agreement(self, one: float, other: float) -> float:
        """1 where both scores lie on the same side of the threshold, else 0."""
        limit = self.spec.threshold or 0.0
        return float((one >= limit) == (other >= limit))

    def label(self, value: object) -> int:
        """True or 1 for an anomaly, false or 0 for none; kept as 1 or 0."""
        if not isinstance(value, bool | int) or value not in (0, 1):
            raise self.wrong(value, "1 (an anomaly) or 0 (none)")
        return int(value)

    def right(self, answer: float, label: Any) -> float:
        """1 where the score lies on the label's side of the threshold, else 0."""
        return float((answer >= (self.spec.threshold or 0.0)) == bool(label))

    def stack(self, labels: Sequence[Any]) -> AnyArray:
        """Int64 (n,): 1 for an anomaly."""
        return np.asarray(labels, np.int64).reshape(-1)

    def values(self, answer: float) -> tuple[float, ...]:
        """The score."""
        return (answer,)

    def check(self) -> None:
        """There must be a threshold, and a single score."""
        super().check()
        if self.spec.threshold is None:
            raise self._unfit("needs a threshold", "--task anomaly-score:threshold=T: an anomaly has at least this")
        if _width(self.outputs[0].shape) != 1:
            raise self._unfit(f"has an output of {list(self.outputs[0].shape)}", "a score is (n,) or (n, 1)")


class Embedding(Task[AnyArray]):
    """A direction per answer: the first output, (n, dimensions)."""

    name = "embedding"
    used = frozenset()
    agree_at = 0.9

    def answers(self, outputs: Outputs) -> tuple[AnyArray, ...]:
        """The vector of every row."""
        return tuple(row.astype(np.float64) for row in self.first(outputs))

    def agreement(self, one: AnyArray, other: AnyArray) -> float:
        """The cosine of the angle, 0 from a right angle on."""
        return cosine(one, other)

    def label(self, value: object) -> str:
        """Return the label of what the input shows, as text: inputs with the same label belong together."""
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= NAME_LIMIT:
            raise self.wrong(value, f"1 to {NAME_LIMIT} printable characters: what the input shows")
        return value

    def right(self, answer: AnyArray, label: Any) -> None:
        """No answer is right by itself: a label says which inputs belong together."""

    def stack(self, labels: Sequence[Any]) -> AnyArray:
        """Text (n,): rows with the same one belong together."""
        return np.asarray(labels, np.str_).reshape(-1)


def within(one: Any, other: Any, tolerance: float) -> float:
    """Return the share of values no further apart than `tolerance`; 0 for different shapes. NaN equals NaN."""
    a, b = np.asarray(one, np.float64).reshape(-1), np.asarray(other, np.float64).reshape(-1)
    if a.shape != b.shape:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        near = (a == b) | (np.abs(a - b) <= tolerance) | (np.isnan(a) & np.isnan(b))
    return float(near.mean()) if near.size else 1.0


def cosine(one: AnyArray, other: AnyArray) -> float:
    """The cosine of the angle between two vectors, in [0, 1]; two zero vectors are alike, one is like no other."""
    a, b = (np.asarray(v, np.float64).reshape(-1) for v in (one, other))
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    if np.array_equal(a, b):
        return 1.0
    largest = [float(np.abs(v).max(initial=0.0)) for v in (a, b)]
    if not all(largest):
        return 0.0
    a, b = a / largest[0], b / largest[1]  # so that squares neither overflow nor vanish
    return min(max(float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b)), 0.0), 1.0)


def _width(shape: tuple[int, ...]) -> int:
    """Numbers per answer; -1 where the shape does not say."""
    sizes = shape[1:] if shape[:1] in ((-1,), (1,)) else shape
    return -1 if -1 in sizes else int(np.prod(sizes, dtype=np.int64))

"""Tasks whose answers are classes: one of them, or any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fleet.protocol.confidence import best, confidence, probabilities
from fleet.protocol.errors import MalformedError
from fleet.protocol.tensors import AnyArray
from fleet.tasks.base import Calibration, Outputs, Reading, Task

HALF = 0.5


class Classification(Task[int]):
    """One class per answer: the highest score of the first output, (n, classes)."""

    name = "classification"
    summarises = "classes"
    used = frozenset()

    def answers(self, outputs: Outputs) -> tuple[int, ...]:
        """The class number of every row."""
        return tuple(self._table(outputs).argmax(axis=1).tolist())

    def read(self, outputs: Outputs, calibration: Calibration) -> Reading:
        """The confidence is the calibrated probability of the class."""
        if self.spec.confidence:
            return Reading(self.answers(outputs), self._said_confidence(outputs))
        scores = self._table(outputs)
        if len(scores) == 1:
            single = best(scores[0], temperature=calibration.temperature, apply_softmax=calibration.logits)
            if single is not None:
                return Reading(single[:1], single[1:])
        table = probabilities(scores, temperature=calibration.temperature, apply_softmax=calibration.logits)
        return Reading(self.answers(outputs), tuple(confidence(table).tolist()))

    def agreement(self, one: int, other: int) -> float:
        """1 for the same class, else 0."""
        return float(one == other)

    def label(self, value: object) -> int:
        """A class number or a class name; kept as its number."""
        return self.class_of(value)

    def right(self, answer: int, label: Any) -> float:
        """1 for the class, else 0."""
        return float(answer == label)

    def stack(self, labels: Sequence[Any]) -> AnyArray:
        """Class numbers, int64 (n,)."""
        return np.asarray(labels, np.int64).reshape(-1)

    def all_classes(self, answers: tuple[int, ...]) -> tuple[int, ...]:
        """The answers themselves."""
        return answers

    def classes(self, answer: int) -> tuple[int, ...]:
        """The class."""
        return (answer,)

    def check(self) -> None:
        """There must be class names."""
        super().check()
        if not self.class_names:
            raise self._unfit("needs class names", "give them in the order of the scores: --labels a,b,c")

    def _table(self, outputs: Outputs) -> AnyArray:
        array = outputs.get(self.outputs[0].name)
        if array is None or array.dtype.kind not in "iufb" or array.ndim not in (1, 2) or array.shape[-1] == 0:
            found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise MalformedError(f"class scores must be numbers (n, classes), not {found}", subject="outputs")
        return array[None, :] if array.ndim == 1 else array


class MultiLabel(Task[tuple[int, ...]]):
    """Any number of classes per answer: those of the first output, (n, classes), at or above the threshold (0.5)."""

    name = "multi-label"
    summarises = "classes"
    used = frozenset({"threshold", "logits"})

    def answers(self, outputs: Outputs) -> tuple[tuple[int, ...], ...]:
        """The class numbers of every row, in order."""
        return tuple(tuple(np.flatnonzero(row >= self._threshold).tolist()) for row in self._probabilities(outputs))

    def read(self, outputs: Outputs, calibration: Calibration) -> Reading:
        """The confidence is that of the least certain class: of its presence, or of its absence."""
        rows = self._probabilities(outputs)
        answers = tuple(tuple(np.flatnonzero(row >= self._threshold).tolist()) for row in rows)
        if self.spec.confidence:
            return Reading(answers, self._said_confidence(outputs))
        return Reading(answers, tuple(_least_certain(row, self._threshold) for row in rows))

    def agreement(self, one: tuple[int, ...], other: tuple[int, ...]) -> float:
        """The share of classes in both among those in either (Jaccard); 1 where neither has any."""
        union = len({*one, *other})
        return len(set(one) & set(other)) / union if union else 1.0

    def label(self, value: object) -> list[int]:
        """A list of class numbers or names, or one name; kept as sorted numbers. An empty list: none is there.

        One that says the same twice is refused: a row of 0 and 1 for each class does, and means something else.
        """
        items = [value] if isinstance(value, str) else value
        wanted = "a list of class numbers or names, each once; an empty one says that none is there"
        if not isinstance(items, list | tuple):
            raise self.wrong(value, wanted)
        found = sorted({self.class_of(item) for item in items})
        if len(set(items)) < len(items):
            raise self.wrong(value, wanted)
        return found

    def right(self, answer: tuple[int, ...], label: Any) -> float:
        """The share of classes in both among those in either."""
        return self.agreement(answer, tuple(label))

    def stack(self, labels: Sequence[Any]) -> AnyArray:
        """Float32 (n, classes): 1 where the class is there, else 0."""
        table = np.zeros((len(labels), len(self.class_names)), np.float32)
        for row, classes in enumerate(labels):
            table[row, classes] = 1.0
        return table

    def classes(self, answer: tuple[int, ...]) -> tuple[int, ...]:
        """The classes."""
        return answer

    def check(self) -> None:
        """There must be class names, and a threshold between 0 and 1."""
        super().check()
        if not self.class_names:
            raise self._unfit("needs class names", "give them in the order of the scores: --labels a,b,c")
        if self.outputs[0].shape[-1:] not in ((len(self.class_names),), (-1,)):
            raise self._unfit(
                f"has {len(self.class_names)} class names and scores of {list(self.outputs[0].shape)}",
                "a class name for every score",
            )
        if not 0 < self._threshold < 1:
            raise self._unfit(f"has threshold {self._threshold:g}", "the threshold lies between 0 and 1")

    @property
    def _threshold(self) -> float:
        return HALF if self.spec.threshold is None else self.spec.threshold

    def _probabilities(self, outputs: Outputs) -> list[AnyArray]:
        rows = [row.astype(np.float64) for row in self.first(outputs)]
        return [sigmoid(row) for row in rows] if self.spec.logits else rows


def sigmoid(values: AnyArray) -> AnyArray:
    """The logistic function, without overflow."""
    half: Any = 0.5 * (1.0 + np.tanh(0.5 * values))
    return np.asarray(half)


def _least_certain(row: AnyArray, threshold: float) -> float:
    """The lowest probability that one decision of the row is right; NaN is no confidence."""
    decided = np.where(row >= threshold, row, 1.0 - row)
    lowest = float(decided.min()) if decided.size else 0.0
    return min(max(lowest, 0.0), 1.0) if lowest == lowest else 0.0

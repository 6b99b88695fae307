"""The base of every task, and the code that tasks share: reading rows, checking labels and settings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Tensor
from fleet.protocol.task import TaskSpec
from fleet.protocol.tensors import AnyArray

A = TypeVar("A")
Outputs = Mapping[str, AnyArray]
SHOWN = 60  # characters of a wrong label in a message


class Calibration(NamedTuple):
    """The fitted values of one variant: see `fleet.protocol.confidence`. `logits`: the first output holds logits."""

    temperature: float = 1.0
    logits: bool = True


class Reading(NamedTuple):
    """Per row of a batch: the answer, and its confidence in [0, 1]; `confidence` is empty where nothing says it."""

    answers: tuple[Any, ...] = ()
    confidence: tuple[float, ...] = ()


class Task(ABC, Generic[A]):
    """One kind of answer, for a model with these outputs and class names.

    Building one checks nothing, since a device does it for every request; `check` is for publishing.
    """

    name: ClassVar[str]
    used: ClassVar[frozenset[str]]  # the settings that the task knows, besides `agree_at` and `confidence`
    agree_at: ClassVar[float] = 1.0  # unless the interface says otherwise
    summarises: ClassVar[str] = ""  # what windows count of answers: "classes", "values" (quantiles), or nothing
    compares: bool = True  # whether two answers can be compared at all

    def __init__(self, spec: TaskSpec, classes: Sequence[str], outputs: Sequence[Tensor]) -> None:
        self.spec = spec
        self.class_names = classes
        self.outputs = outputs

    @abstractmethod
    def answers(self, outputs: Outputs) -> tuple[A, ...]:
        """The answer of every row; raises MalformedError when the outputs are not this task's."""

    @abstractmethod
    def agreement(self, one: A, other: A) -> float:
        """Return how much two answers to one request agree, in [0, 1]; symmetric, and 1 for an answer and itself."""

    @abstractmethod
    def label(self, value: object) -> Any:
        """A label as it is kept: plain JSON; raises MalformedError with the value and what a label may be."""

    @abstractmethod
    def stack(self, labels: Sequence[Any]) -> Any:
        """Labels as `label` keeps them, one per row, as training and metrics take them; n may be 0.

        classification  int64 (n,): class numbers
        multi-label     float32 (n, classes): 1 where the class is there, else 0
        regression      float64 (n, values)
        anomaly-score   int64 (n,): 1 for an anomaly
        embedding       text (n,): rows with the same one belong together
        detection       a list of n pairs: corners float64 (k, 4) as x1, y1, x2, y2, and class numbers int64 (k,)
        custom          a list of n labels as they are

        Raises MalformedError where the rows do not fit each other.
        """

    @abstractmethod
    def right(self, answer: A, label: Any) -> float | None:
        """Return how right an answer is, in [0, 1], by a label as `label` keeps it; None where the task cannot say."""

    def read(self, outputs: Outputs, calibration: Calibration) -> Reading:
        """The answers with their confidence; raises MalformedError when the outputs are not this task's."""
        return Reading(self.answers(outputs), self._said_confidence(outputs))

    def agrees(self, one: A, other: A) -> bool:
        """Tell whether two answers count as the same."""
        needed = self.agree_at if self.spec.agree_at is None else self.spec.agree_at
        return self.agreement(one, other) >= needed

    def all_classes(self, answers: tuple[A, ...]) -> tuple[int, ...]:
        """The class numbers in several answers, one after the other."""
        return tuple(number for answer in answers for number in self.classes(answer))

    def classes(self, answer: A) -> tuple[int, ...]:
        """The class numbers in an answer, for a window's counts of classes."""
        return ()

    def values(self, answer: A) -> tuple[float, ...]:
        """The numbers in an answer, for a window's quantiles of values."""
        return ()

    def check(self) -> None:
        """Check that settings, class names and outputs fit the task.

        Raises:
            MalformedError: they do not.
        """
        for key in self.spec.__struct_fields__:
            given = getattr(self.spec, key) not in (None, "", False)
            if given and key not in self.used | {"name", "agree_at", "confidence"}:
                raise self._unfit(f"has no setting {key!r}", f"it knows {', '.join(sorted(self.used)) or 'none'}")
        for key in ("tolerance", "threshold", "low", "high", "agree_at", "iou"):
            value = getattr(self.spec, key)
            if value is not None and not math.isfinite(value):
                raise self._unfit(f"has {key} {value}, which is no number", "give a finite number")
        for key in ("agree_at", "iou"):
            value = getattr(self.spec, key)
            if value is not None and not 0 < value <= 1:
                raise self._unfit(f"has {key} {value:g}", f"{key} lies above 0 and is at most 1")
        if self.spec.confidence and self.spec.confidence not in {tensor.name for tensor in self.outputs}:
            known = ", ".join(tensor.name for tensor in self.outputs)
            raise self._unfit(f"takes its confidence from output {self.spec.confidence!r}", f"there are {known}")

    def _said_confidence(self, outputs: Outputs) -> tuple[float, ...]:
        """By the output that holds it; what is no number is no confidence at all."""
        if not self.spec.confidence:
            return ()
        values = [float(row.reshape(-1)[0]) for row in self.rows(outputs, self.spec.confidence) if row.size]
        return tuple(min(max(value, 0.0), 1.0) if value == value else 0.0 for value in values)

    def rows(self, outputs: Outputs, name: str) -> list[AnyArray]:
        """The rows of an output, one per answer; raises MalformedError when it is missing or text."""
        array = outputs.get(name)
        if array is None or array.dtype.kind == "O":
            found = "missing" if array is None else "text"
            raise MalformedError(f"a {self.name} needs numbers in output {name!r}, which is {found}", subject="outputs")
        shape = next((tensor.shape for tensor in self.outputs if tensor.name == name), (-1,))
        if array.ndim and (shape[:1] == (-1,) or (array.ndim > 1 and array.shape[0] == 1)):
            return list(array)
        return [array]

    def first(self, outputs: Outputs) -> list[AnyArray]:
        """The rows of the output that is scored, each as a flat array of numbers."""
        return [np.asarray(row).reshape(-1) for row in self.rows(outputs, self.outputs[0].name)]

    def class_of(self, value: object) -> int:
        """Return a class by number or name.

        Raises:
            MalformedError: there is no such class.
        """
        if isinstance(value, str) and value in self.class_names:
            return list(self.class_names).index(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.class_names):
            return value
        last = len(self.class_names) - 1
        raise self.wrong(value, f"a number from 0 to {last}, or a class name: {_listed(self.class_names)}")

    def number_of(self, value: object) -> float:
        """Return a finite number within the interface's range.

        Raises:
            MalformedError: it is none.
        """
        low, high = self.spec.low, self.spec.high
        try:
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        except OverflowError:  # a whole number of any length
            number = math.nan
        if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
            bounds = [f"at least {low:g}"] if low is not None else []
            bounds += [f"at most {high:g}"] if high is not None else []
            raise self.wrong(value, " and ".join(["a finite number", *bounds]))
        return number

    def wrong(self, value: object, wanted: str) -> MalformedError:
        """The error about a label, with the value and what a label may be."""
        return MalformedError(
            f"{repr(value)[:SHOWN]} is no label of a {self.name}", subject="label", hint=f"a label is {wanted}"
        )

    def _unfit(self, what: str, hint: str) -> MalformedError:
        return MalformedError(f"the task {self.name} {what}", subject="task", hint=hint)


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)})" if len(names) > most else "")

"""A task that only its owner understands: what the device does with it is one of a few built-in comparisons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from fleet.protocol.manifest import Tensor
from fleet.protocol.task import TaskSpec
from fleet.protocol.tensors import AnyArray, to_bytes
from fleet.tasks.base import Outputs, Task
from fleet.tasks.values import cosine, within

AGREEMENTS = ("equal", "tolerance", "cosine")
LABEL_LIMIT = 4096  # characters of a label as JSON


class Custom(Task[AnyArray]):
    """The whole first output per answer. Without an agreement nothing is compared, and so nothing is audited."""

    name = "custom"
    used = frozenset({"agreement", "tolerance"})

    def __init__(self, spec: TaskSpec, classes: Sequence[str], outputs: Sequence[Tensor]) -> None:
        super().__init__(spec, classes, outputs)
        self.compares = bool(spec.agreement)

    def answers(self, outputs: Outputs) -> tuple[AnyArray, ...]:
        """The first output, row by row; text is kept as it is."""
        if not self.compares:
            return ()
        name = self.outputs[0].name
        array = outputs.get(name)
        if array is not None and array.dtype.kind == "O" and self.spec.agreement == "equal":
            return tuple(np.asarray(row, object) for row in array) if array.ndim else (array,)
        return tuple(self.rows(outputs, name))

    def agreement(self, one: AnyArray, other: AnyArray) -> float:
        """By `equal` 1 or 0, by `tolerance` the share of values within it, by `cosine` the angle's cosine."""
        if self.spec.agreement == "tolerance":
            return within(one, other, self.spec.tolerance or 0.0)
        if self.spec.agreement == "cosine":
            return cosine(one, other)
        same = one.dtype == other.dtype and one.shape == other.shape and to_bytes(one) == to_bytes(other)
        return float(same or (one.dtype.kind != "O" and other.dtype.kind != "O" and within(one, other, 0.0) == 1.0))

    def label(self, value: object) -> Any:
        """Any JSON that is not too long."""
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            text = ""
        if value is None or not 0 < len(text) <= LABEL_LIMIT:
            raise self.wrong(value, f"JSON of at most {LABEL_LIMIT} characters, without NaN")
        return value

    def right(self, answer: AnyArray, label: Any) -> float | None:
        """By the built-in agreement, where the label is numbers like the answer; else only the owner's metric says."""
        try:
            wanted = np.asarray(label, np.float64)
        except (TypeError, ValueError, OverflowError):
            return None
        if not self.compares or answer.dtype.kind == "O" or wanted.size != answer.size:
            return None
        return self.agreement(np.asarray(answer, np.float64).reshape(-1), wanted.reshape(-1))

    def stack(self, labels: Sequence[Any]) -> list[Any]:
        """The labels as they are."""
        return list(labels)

    def check(self) -> None:
        """A known agreement, and a tolerance where it is the one."""
        super().check()
        if self.spec.agreement not in ("", *AGREEMENTS):
            raise self._unfit(f"has agreement {self.spec.agreement!r}", f"one of {', '.join(AGREEMENTS)}")
        if (self.spec.agreement == "tolerance") != (self.spec.tolerance is not None) or (self.spec.tolerance or 0) < 0:
            raise self._unfit(
                "needs agreement and tolerance together", "--task custom:agreement=tolerance,tolerance=T with T from 0"
            )

"""The faults of a recipe's data, named with their rows before the first step is taken. Pure.

Refused: sets without rows, inputs and labels of different lengths or shapes, NaN or infinity that the model does not
mean, labels that are none of the task, more than 1 % of a held-out set that is trained on as well. Only said: fewer
such rows, the same input with different labels, classes without rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloud_hub.errors import InvalidError
from cloud_hub.training.examples import Examples, Sets
from fleet.protocol.task import TaskSpec
from fleet.protocol.tensors import to_bytes
from model_compiler.inputs.dataset import Array

SHOWN = 8  # rows that a finding names
MOST_SHARED = 0.01  # of a held-out set: how much of it may be trained on
PARTS = ("train", "calibration", "validation", "exam")


@dataclass(frozen=True)
class DataFinding:
    """Something wrong in words; with `fatal`, nothing is trained on such data."""

    text: str
    fatal: bool = True


def check_data(
    sets: Sets, spec: TaskSpec | None, labels: Sequence[str], *, non_finite: Collection[str] = ()
) -> tuple[str, ...]:
    """Look through a recipe's sets.

    Args:
        sets: as the recipe's `data` gave them.
        spec: the task; None for a classification.
        labels: the class names; empty where they are not known.
        non_finite: inputs that may hold NaN and infinity; with any, labels may.

    Returns:
        What is worth saying, and no reason to stop.

    Raises:
        InvalidError: all that is one, a line each.
    """
    found = list(_shapes(sets))
    if not found:
        for name in PARTS:
            part: Examples = getattr(sets, name)
            found += _numbers(name, part, non_finite)
            found += _labels(name, part, spec, labels)
        found += _shared(sets)
        found += conflicts("train", sets.train)
        found += _empty_classes(sets, spec, labels)
    fatal = [finding.text for finding in found if finding.fatal]
    if fatal:
        raise InvalidError(
            "the recipe's data: " + "; ".join(fatal), subject="recipe", hint="correct these rows, or leave them out"
        )
    return tuple(finding.text for finding in found)


def rows_in_words(rows: Iterable[int]) -> str:
    """Row numbers, from 0: `row 4`, or `rows 3, 17, … (12 rows)`."""
    numbers = sorted(rows)
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    more = f", … ({len(numbers)} rows)" if len(numbers) > SHOWN else ""
    return f"rows {', '.join(map(str, numbers[:SHOWN]))}{more}"


def conflicts(name: str, part: Examples) -> Iterator[DataFinding]:
    """The same input with different labels; of numbers that may be noise, so it is only said."""
    known = np.flatnonzero(part.labelled)
    by_input: dict[bytes, list[int]] = defaultdict(list)
    for row, key in zip(known.tolist(), keys_of(part.take(known)), strict=True):
        by_input[key].append(row)
    groups = [rows for rows in by_input.values() if len({part.y[row].tobytes() for row in rows}) > 1]
    if groups:
        which = "; ".join(rows_in_words(rows) for rows in groups[:3])
        yield DataFinding(
            f"{name}: {len(groups)} inputs have different labels ({which}{'; …' if len(groups) > 3 else ''})",
            fatal=False,
        )


def keys_of(examples: Examples) -> list[bytes]:
    """For every row the bytes of all its inputs."""
    arrays = [np.ascontiguousarray(array) for array in examples.inputs.values()]
    return [b"".join(_bytes_of(array[row, ...]) for array in arrays) for row in range(len(examples))]


def _bytes_of(values: Array) -> bytes:
    """Text by what it says, not by where it lies or how wide its array is."""
    return to_bytes(values.astype(object)) if values.dtype.kind in "USO" else values.tobytes()


def _shapes(sets: Sets) -> Iterator[DataFinding]:
    for name in PARTS:
        part: Examples = getattr(sets, name)
        counts = {input_: len(array) for input_, array in part.inputs.items()}
        if not len(part) and name != "exam":
            yield DataFinding(f"{name} has no rows")
        wrong = {input_: count for input_, count in counts.items() if count != len(part.y)}
        for input_, count in wrong.items():
            yield DataFinding(f"{name}: input {input_!r} has {count} rows, y has {len(part.y)}")
        if part.y.shape[1:] != sets.train.y.shape[1:] and part.y.ndim != 3:
            yield DataFinding(
                f"{name}: y is {['n', *part.y.shape[1:]]}, that of train {['n', *sets.train.y.shape[1:]]}".replace(
                    "'", ""
                )
            )


def _numbers(name: str, part: Examples, non_finite: Collection[str]) -> Iterator[DataFinding]:
    loose = bool(non_finite) and len(part.inputs) == 1  # a lone input may get its name later
    arrays = {f"input {key!r}": a for key, a in part.inputs.items() if key not in non_finite and not loose}
    known = part.with_labels().y
    for what, array in arrays.items():
        yield from _strange(f"{name}: {what}", array, np.arange(len(array)))
    if not non_finite:
        yield from _strange(f"{name}: y", known, np.flatnonzero(part.labelled))


def _strange(what: str, array: Array, numbers: Array) -> Iterator[DataFinding]:
    if array.dtype.kind != "f" or not len(array):
        return
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        yield DataFinding(f"{what} holds NaN or infinity in {rows_in_words(numbers[bad].tolist())}")


def _labels(name: str, part: Examples, spec: TaskSpec | None, labels: Sequence[str]) -> Iterator[DataFinding]:
    """Labels outside the task's range, with their rows."""
    rows = np.flatnonzero(part.labelled)
    y: Any = part.y[rows]
    task = spec.name if spec is not None else "classification"
    wrong: Any = np.zeros(len(y), bool)
    words = ""
    if task == "classification" and labels and y.ndim == 1 and y.dtype.kind in "iu":
        wrong, words = y >= len(labels), f"from 0 to {len(labels) - 1}"
    elif task in ("anomaly-score", "multi-label") and y.dtype.kind in "iufb":
        wrong, words = ~np.isin(y, (0, 1)).reshape(len(y), -1).all(axis=1), "0 or 1"
    elif task == "regression" and spec is not None and y.dtype.kind in "iuf":
        low, high = (-np.inf if spec.low is None else spec.low), (np.inf if spec.high is None else spec.high)
        flat = y.reshape(len(y), -1)
        wrong, words = ((flat < low) | (flat > high)).any(axis=1), f"from {low:g} to {high:g}"
    elif task == "detection" and labels and y.ndim == 3:
        wrong, words = (y[:, :, 4] >= len(labels)).any(axis=1), f"of classes from 0 to {len(labels) - 1}"
    if wrong.any():
        shown = rows_in_words(rows[wrong].tolist())
        yield DataFinding(f"{name}: the labels in {shown} are none of the task {task}: they are {words}")


def _shared(sets: Sets) -> Iterator[DataFinding]:
    trained = set(keys_of(sets.train))
    for name in PARTS[1:]:
        part: Examples = getattr(sets, name)
        rows = [row for row, key in enumerate(keys_of(part)) if key in trained]
        if rows:
            share = len(rows) / len(part)
            yield DataFinding(
                f"{name}: {rows_in_words(rows)} {'is' if len(rows) == 1 else 'are'} in train, too ({share:.1%})",
                fatal=share > MOST_SHARED and name != "calibration",
            )


def _empty_classes(sets: Sets, spec: TaskSpec | None, labels: Sequence[str]) -> Iterator[DataFinding]:
    y = sets.train.with_labels().y
    if spec is not None or not labels or y.ndim != 1 or y.dtype.kind not in "iu":
        return
    for name in ("train", "validation"):
        part: Examples = getattr(sets, name)
        counts = Counter(part.with_labels().y.tolist())
        missing = [f"{label} ({number})" for number, label in enumerate(labels) if not counts[number]]
        if missing:
            shown = ", ".join(missing[:SHOWN]) + (f", … ({len(missing)})" if len(missing) > SHOWN else "")
            yield DataFinding(f"{name} has no row of the class{'es' if len(missing) > 1 else ''} {shown}", fatal=False)

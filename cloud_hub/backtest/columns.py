"""The columns of a file by what they hold, and the rows that its cells make, by the inputs of a release. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from cloud_hub.backtest.times import Moments, WrongMomentError
from cloud_hub.errors import InvalidError
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Manifest
from fleet.protocol.task import CLASSIFICATION
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import dtype_of
from fleet.tasks import Task, of_manifest

AnyRow = npt.NDArray[Any]
EMPTY = {"", "na", "n/a", "nan", "null", "none"}  # cells that hold no number
EXACT = 2.0**53  # up to it, float64 has every whole number
ALONE = "device"  # the name of the only one, where no column says which


class ColumnNames(Struct, frozen=True, kw_only=True):
    """The columns that an operator names. `features` are those of an input, in its order, by its name; of the only
    input also by an empty one."""

    time: str = "time"
    device: str = ""
    groups: tuple[str, ...] = ()
    features: Mapping[str, tuple[str, ...]] = {}
    label: str = ""
    prediction: str = ""


class InputColumns(Struct, frozen=True):
    """The columns of an input: of each number of a row, or one that holds whole rows."""

    tensor: Tensor
    names: tuple[str, ...]


class HistoricRow(Struct, frozen=True, kw_only=True):
    """One request of the past. `inputs` are rows without a batch axis, by input; `refused` the input that no device
    would have taken, for the number at that place is NaN or infinite. `label` is the class that was right, `answer` the
    one that the model gave; None where nothing says it."""

    at: float
    device: str
    labels: tuple[tuple[str, str], ...]
    inputs: Mapping[str, AnyRow]
    refused: tuple[str, int] | None = None
    label: int | None = None
    answer: int | None = None


def columns_of(
    manifest: Manifest, known: Mapping[str, Sequence[str]], heading: Sequence[str], names: ColumnNames
) -> tuple[InputColumns, ...]:
    """The columns of every input.

    Args:
        known: the features' own names by input, where the release says them.
        heading: of the file.

    Raises:
        InvalidError: one is missing, or is named for an input that the release does not have.
    """
    inputs = {tensor.name: tensor for tensor in manifest.inputs}
    given = {
        (next(iter(inputs)) if not name and len(inputs) == 1 else name): own for name, own in names.features.items()
    }
    if strange := sorted(given.keys() - inputs.keys()):
        words = f"--features: the release has no input {strange[0]!r}; it has {', '.join(inputs)}"
        raise InvalidError(words, subject="--features", hint="write --features INPUT=COLUMN,COLUMN")
    found = tuple(_input(tensor, given.get(name, ()), known.get(name, ()), heading) for name, tensor in inputs.items())
    wanted = [names.time, names.device, *names.groups, names.label, names.prediction]
    _check(["time", "device", *("group" for _ in names.groups), "label", "prediction"], wanted, heading)
    return found


def _input(tensor: Tensor, given: Sequence[str], known: Sequence[str], heading: Sequence[str]) -> InputColumns:
    size = math.prod(tensor.row) if all(part > 0 for part in tensor.row) else 0
    if given:
        if len(given) not in (1, size):
            words = f"--features: input {tensor.name!r} takes {size} numbers, and {len(given)} columns are named"
            raise InvalidError(words, subject=tensor.name, hint="name them all, in the input's order")
        _check(["features"] * len(given), given, heading)
        return InputColumns(tensor, tuple(given))
    there = set(heading)
    numbered = ([f"{tensor.name}[{place}]" for place in range(size)], [f"{tensor.name}_{n}" for n in range(size)])
    choices = [list(known) if len(known) == size else [], [tensor.name], *numbered]
    for choice in choices:
        if choice and there.issuperset(choice):
            return InputColumns(tensor, tuple(choice))
    missing = [name for name in choices[0] or numbered[0] or [tensor.name] if name not in there]
    words = f"input {tensor.name!r} has no column {missing[0]!r}" + (
        f" and {len(missing) - 1} more" if missing[1:] else ""
    )
    hint = (
        f"--features {tensor.name}=COLUMN,… names its {size or ''} columns, in its order; there are {_listed(heading)}"
    )
    raise InvalidError(words, subject=tensor.name, hint=hint.replace("  ", " "))


def _check(options: Sequence[str], wanted: Sequence[str], heading: Sequence[str]) -> None:
    for option, name in zip(options, wanted, strict=True):
        if name and name not in heading:
            raise InvalidError(
                f"--{option}: there is no column {name!r}", subject=name, hint=f"there are {_listed(heading)}"
            )


def _listed(heading: Sequence[str]) -> str:
    return ", ".join(map(repr, heading[:20])) + (f" and {len(heading) - 20} more" if len(heading) > 20 else "")


class RowReader:
    """Makes rows of cells.

    Args:
        manifest: of the release.
        inputs: the columns of its inputs.
        names: those of all else.
        moments: reads times.
    """

    def __init__(
        self, manifest: Manifest, inputs: Sequence[InputColumns], names: ColumnNames, moments: Moments
    ) -> None:
        self._inputs, self._names, self._moments = inputs, names, moments
        self._task = _task_of(manifest, names)
        rest = [names.time, names.device, *names.groups, names.label, names.prediction]
        self.columns = [*(name for name in rest if name), *(name for one in inputs for name in one.names)]

    def row(self, where: str, cells: Sequence[object]) -> HistoricRow:
        """The row of the cells of `columns`.

        Raises:
            InvalidError: a cell that cannot be read; the message begins with `where`.
        """
        names, rest = self._names, iter(cells)
        try:
            at = self._moments.read(next(rest))
            device = str(next(rest)).strip() if names.device else ALONE
            if not device:
                raise ValueError("the device's name is empty")
            labels = tuple((name, str(next(rest)).strip()) for name in names.groups)
            label = self._class(next(rest)) if names.label else None
            answer = self._class(next(rest)) if names.prediction else None
            inputs, refused = {}, None
            for one in self._inputs:
                inputs[one.tensor.name], place = _values(one, [next(rest) for _ in one.names])
                refused = (one.tensor.name, place) if place >= 0 and refused is None else refused
        except (ValueError, MalformedError) as error:
            hint = (
                "" if not isinstance(error, WrongMomentError) else "--time names another column, --time-zone the zone"
            )
            raise InvalidError(f"{where}: {error}", subject=where, hint=hint) from error
        return HistoricRow(
            at=at, device=device, labels=labels, inputs=inputs, refused=refused, label=label, answer=answer
        )

    def _class(self, cell: object) -> int | None:
        """A class by its name or number; None of an empty cell."""
        assert self._task is not None
        text = str(cell).strip()
        if cell is None or text.lower() in EMPTY - set(self._task.class_names):
            return None
        if text in self._task.class_names:
            return self._task.class_of(text)
        return self._task.class_of(int(float(text)) if _whole(text) else text)


def _task_of(manifest: Manifest, names: ColumnNames) -> Task[Any] | None:
    if not names.label and not names.prediction:
        return None
    task = of_manifest(manifest)
    if task.name != CLASSIFICATION:
        words = f"labels and predictions are compared of a classification; the release's task is {task.name}"
        raise InvalidError(words, subject="--label", hint="leave --label and --prediction out")
    return task


def _whole(text: str) -> bool:
    try:
        return float(text).is_integer()
    except ValueError:
        return False


def _values(one: InputColumns, cells: Sequence[object]) -> tuple[AnyRow, int]:
    """A row of an input, and the place of its first number that no device takes; -1 without any."""
    tensor = one.tensor
    dtype = dtype_of(tensor.datatype)
    if dtype.kind == "O":
        texts = np.array([str("" if cell is None else cell).encode() for cell in cells], object)
        return (texts if tensor.row else texts[0]), -1
    if len(cells) == 1 and isinstance(cells[0], np.ndarray):
        numbers = np.asarray(cells[0], np.float64)
    else:
        numbers = np.array([_number(name, cell) for name, cell in zip(one.names, cells, strict=True)])
    row = tuple(part if part > 0 else -1 for part in tensor.row)
    if numbers.size != math.prod(row) and (row.count(-1) != 1 or numbers.size % abs(math.prod(row))):
        raise ValueError(f"input {tensor.name!r} takes {list(row)} numbers, and {list(numbers.shape)} are there")
    flat = numbers.reshape(-1)
    with np.errstate(invalid="ignore", over="ignore"):
        cast = flat.astype(dtype)
    if dtype.kind != "f":
        _write_exactly(one, cells, flat, cast)
    # A float that the datatype cannot hold is infinite on devices, too.
    gaps = np.flatnonzero(~np.isfinite(cast if dtype.kind == "f" else flat))
    refused = int(gaps[0]) if len(gaps) and (tensor.finite or dtype.kind != "f") else -1
    return cast.reshape(row), refused


def _write_exactly(one: InputColumns, cells: Sequence[object], numbers: AnyRow, cast: AnyRow) -> None:
    """Write those numbers into `cast` that float64 has only nearly.

    Raises:
        ValueError: one is no whole number, or the datatype does not reach to it.
    """
    finite = np.isfinite(numbers)
    wrong = finite & (cast != numbers)
    given: Any = cells[0].reshape(-1) if isinstance(cells[0], np.ndarray) else cells
    if cast.dtype.kind in "iu":
        limits = np.iinfo(cast.dtype)
        for place in np.flatnonzero(finite & (np.abs(numbers) >= EXACT)):
            exact = Decimal(given[place].strip() if isinstance(given[place], str) else int(given[place]))
            wrong[place] = exact != int(exact) or not limits.min <= exact <= limits.max
            if not wrong[place]:
                cast[place] = int(exact)
    if wrong.any():
        first = int(np.argmax(wrong))
        column = f"column {one.names[min(first, len(one.names) - 1)]!r}"
        column += f", number {first}" if len(one.names) < len(numbers) else ""
        raise ValueError(f"{column}: {one.tensor.datatype} cannot hold {given[first]}")


def _number(name: str, cell: object) -> float:
    if isinstance(cell, str):
        text = cell.strip()
        try:
            return float(text)
        except ValueError:
            if text.lower() not in EMPTY:
                hint = ": a point parts the decimals" if text.replace(",", "", 1).lstrip("-").isdigit() else ""
                raise ValueError(f"column {name!r}: {text[:40]!r} is no number{hint}") from None
            return math.nan
    return math.nan if cell is None else float(cell)  # type: ignore[arg-type]

"""Runs requests of any number of rows on a model file whose tensors are paired with the interface.

A file takes a variable batch, or exactly so many rows. One that takes a single row is asked row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from msgspec import Struct

from fleet.protocol.manifest import Ports, Tensor
from fleet.protocol.tensors import AnyArray
from fleet.runtimes.tensors import FileTensor, Port, pair

MAX_BATCH = 1024  # rows; bounds the memory and the time that one request may take

Arrays = dict[str, AnyArray]


CPU = "cpu"
ALL_CORES = 0  # threads: as many as the runtime finds cores for (ONNX Runtime)


class Options(Struct, frozen=True, kw_only=True):
    """The settings that a model runs with.

    `threads`: of one call; an edge device's cores belong to its applications. `device`: `cpu`, or `cuda:0` and so on
    for a runtime that has it. `inner`: the operators run one by one as the file has them, none fused with others, and
    the values between them can be read (a calibration does).
    """

    threads: int = 1
    device: str = CPU
    inner: bool = False


class LoadedModel(Protocol):
    """A model in memory. Arrays are as the manifest says, outputs are the caller's own."""

    @property
    def joins(self) -> bool:
        """True if requests may be joined into one by their rows, and the answer cut apart again."""

    def run(self, inputs: Arrays) -> Arrays:
        """Answer one request.

        Raises:
            InputError: values that the model's datatypes cannot hold.
            ValueError: a shape that the model cannot take. RuntimeError: the runtime failed.
        """

    def close(self) -> None:
        """Give the memory back; the model must not be used afterwards."""


class ModelFile(Protocol):
    """A file that a runtime has taken, with its tensors as the runtime gives them."""

    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]

    @property
    def keeps_names(self) -> bool:
        """True if converters to this format keep the source's names; else they may number its inputs."""

    def model(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        strict: bool = False,
        ports: Ports | None = None,
    ) -> LoadedModel:
        """Return the file as a model with these inputs and outputs; to be called once.

        Args:
            inputs: the manifest's.
            outputs: the manifest's.
            strict: as in `tensors.pair`.
            ports: places in the file, where names do not tell them.

        Raises:
            ValueError: they are not the file's.
        """


class Runtime(Protocol):
    """A model runtime, named by its distribution; `kind` is what variants call it."""

    name: str
    kind: str
    version: str

    def open(self, data: bytes, options: Options = ...) -> ModelFile:
        """Take a file from memory; raises ModelLoadError."""


def paired(
    file: ModelFile, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, strict: bool, ports: Ports | None
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Pair the manifest's inputs and outputs with the file's; see `tensors.pair`."""
    into, out_of = (None, None) if ports is None else (ports.inputs, ports.outputs)
    return (
        pair(inputs, file.inputs, kind="input", strict=strict, places=into),
        pair(outputs, file.outputs, kind="output", strict=strict, places=out_of),
    )


class Batches:
    """Runs a request's rows in the batches that the file takes; `_once` of a subclass is one call of the file."""

    def __init__(self, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._batched = tuple(port.name for port in inputs if _leads(port))
        fixed = {port.file.shape[0] for port in inputs if _leads(port) and port.file.shape and port.file.shape[0] != -1}
        if len(fixed) > 1:
            raise ValueError(f"its inputs take different numbers of rows: {sorted(fixed)}")
        self._fixed = fixed.pop() if fixed else None
        if any(port.added for port in outputs):  # an answer of several rows would not say which box is whose
            self._fixed = 1
        axes = {port.file.axis for port in inputs if _leads(port)}
        alike = [tuple(p.name for p in inputs if _leads(p) and p.file.axis == axis) for axis in sorted(axes)]
        self._alike = [names for names in alike if len(names) > 1]  # one input agrees with itself

    @property
    def joins(self) -> bool:
        """Every input and output counts the same rows first, and the file takes any number of them."""
        ports = (*self._inputs, *self._outputs)
        variable = all(_leads(port) and port.file.shape is not None and port.file.shape[:1] == (-1,) for port in ports)
        if any(port.added for port in self._outputs):
            return False
        return variable and len({port.file.axis for port in self._inputs}) == 1

    def _answer(self, inputs: Arrays) -> Arrays:
        if self._fixed is None:
            for names in self._alike:  # a runtime might stretch one row over the others, or read where there is none
                batch_size(inputs, names)
            return self._once(inputs)
        rows = batch_size(inputs, self._batched)
        return self._once(inputs) if rows == self._fixed else self._row_by_row(inputs, rows)

    def _once(self, inputs: Arrays) -> Arrays:
        raise AssertionError("a subclass answers")

    def _row_by_row(self, inputs: Arrays, rows: int) -> Arrays:
        if self._fixed != 1:
            raise ValueError(f"a batch of {rows} rows; this model file takes exactly {self._fixed}")
        check_rows(rows)
        whole = [port.name for port in self._outputs if not _leads(port)]
        if whole:
            raise ValueError(f"a batch of {rows} rows; output {whole[0]!r} has no batch, so this model takes one row")
        one = dict(inputs)
        answers = []
        for row in range(rows):
            one.update({name: inputs[name][row : row + 1] for name in self._batched})
            answers.append(self._once(one))
        return {port.name: stacked([answer[port.name] for answer in answers]) for port in self._outputs}


def _leads(port: Port) -> bool:
    return port.spec.shape[:1] == (-1,)


def stacked(rows: Sequence[AnyArray]) -> AnyArray:
    """Answers (m, …) one after the other; where they differ in size, each is filled up at its ends, with 0 or no text.

    So is a detector's answer to several images, each with as many boxes as were found: a box of score 0 is none.
    """
    sizes = np.array([row.shape[1:] for row in rows], np.int64)
    if (sizes == sizes[:1]).all():
        return np.concatenate(rows)
    most = sizes.max(axis=0).tolist()
    found = np.full((sum(map(len, rows)), *most), b"" if rows[0].dtype.kind == "O" else 0, rows[0].dtype)
    start = 0
    for row in rows:
        found[(slice(start, start + len(row)), *map(slice, row.shape[1:]))] = row
        start += len(row)
    return found


def check_rows(rows: int) -> None:
    """Raise ValueError unless a model must take a batch of so many rows."""
    if not 1 <= rows <= MAX_BATCH:
        raise ValueError(f"a batch of {rows} rows; a model takes 1 to {MAX_BATCH}")


def batch_size(inputs: Arrays, names: Sequence[str]) -> int:
    """The rows of a request, which all of these inputs share (1 without any); ValueError when they differ."""
    sizes = {inputs[name].shape[0] for name in names}
    if len(sizes) > 1:
        raise ValueError(f"the inputs disagree about the batch: {sorted(sizes)}")
    return sizes.pop() if sizes else 1


def unfair(inputs: Arrays, specs: Sequence[Tensor]) -> str:
    """Return why a run that failed on `inputs` proves nothing against the model; an empty text where it does.

    Where the manifest leaves the batch open: no rows, more than MAX_BATCH, or inputs that disagree about them.
    """
    try:
        names = [spec.name for spec in specs if spec.shape[:1] == (-1,)]
        if names:
            check_rows(batch_size(inputs, names))
    except ValueError as error:
        return str(error)
    empty = sorted(name for name, array in inputs.items() if not array.size)
    return f"input {empty[0]!r} is empty" if empty else ""


def joined(requests: Sequence[Arrays]) -> Arrays:
    """Several requests as one, row after row; they must have the same shapes after the first dimension."""
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def cut(outputs: Arrays, rows: Sequence[int]) -> list[Arrays]:
    """The answer to joined requests of so many rows each, cut apart.

    Raises:
        ValueError: an output does not have as many rows as the requests together: the model cannot be joined.
    """
    wrong = [name for name, array in outputs.items() if array.ndim == 0 or len(array) != sum(rows)]
    if wrong:
        raise ValueError(f"output {wrong[0]!r} has shape {list(outputs[wrong[0]].shape)} for {sum(rows)} rows")
    ends = np.cumsum(rows)
    return [
        {name: array[end - count : end] for name, array in outputs.items()}
        for end, count in zip(ends.tolist(), rows, strict=True)
    ]


def shapes_of(inputs: Arrays) -> dict[str, tuple[Any, ...]]:
    """Return the shapes that requests must share to be joined."""
    return {name: array.shape[1:] for name, array in inputs.items()}

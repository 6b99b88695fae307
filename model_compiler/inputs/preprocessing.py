"""The front and steps between what applications send and a model file. Files are measured through them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np
from msgspec import Struct

from fleet import runtimes
from fleet.protocol.blob import Blob
from fleet.protocol.errors import ProtocolError
from fleet.protocol.front import Front
from fleet.protocol.manifest import Runtime
from fleet.protocol.preprocessing import Pipeline
from fleet.protocol.steps import AnyStep, Concat, Impute
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import datatype_of
from fleet.runtimes import Before
from model_compiler.errors import DataError
from model_compiler.inputs.dataset import Array, Dataset

ROWS = 1024  # of a data set at a time: a step bounds what it makes of one request


class FrontFile(Struct, frozen=True, kw_only=True):
    """The front of a release that is yet to be made: its file, the raw inputs that it takes, and what it makes.

    What it makes is known once it has run: `outputs` are empty before (`fronts.tried`). `names` are those that its
    outputs shall have; empty for the file's own.
    """

    runtime: Runtime
    data: bytes
    inputs: tuple[str, ...]
    outputs: tuple[Tensor, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def described(self) -> Front:
        """As the manifest says it."""
        blob = Blob(sha256=hashlib.sha256(self.data).hexdigest(), size=len(self.data))
        return Front(runtime=self.runtime, blob=blob, inputs=self.inputs, outputs=self.outputs)


class Preparation(Struct, frozen=True, kw_only=True):
    """Front and steps of a release that is yet to be made; `loose` names raw inputs that may hold NaN and infinity."""

    steps: tuple[AnyStep, ...] = ()
    loose: tuple[str, ...] = ()
    front: FrontFile | None = None

    def __bool__(self) -> bool:
        return bool(self.steps) or self.front is not None

    @property
    def described(self) -> Front | None:
        """The front as the manifest says it; None without."""
        return self.front.described if self.front is not None else None

    def pipeline(self, inputs: Mapping[str, Array], *, batched: bool = True) -> Pipeline | None:
        """Front and steps bound to inputs of these arrays' names, datatypes and shapes, each (n, …); None without any.

        Raises DataError where they do not fit.
        """
        return self.bound(tensors_of(inputs, self.loose, batched=batched))

    def bound(self, raw: Sequence[Tensor]) -> Pipeline | None:
        """Front and steps bound to `raw`; None without any. Raises DataError where they do not fit."""
        try:
            return Pipeline(self.steps, raw, front=self.described) if self else None
        except ProtocolError as error:
            raise DataError(str(error), subject="preprocess", hint=error.hint) from error

    def stepped(self, data: Dataset, pipeline: Pipeline) -> Dataset:
        """Apply the steps to a data set (n, …) behind the front; raises DataError where they cannot."""
        try:
            parts = [
                pipeline.run({name: array[start : start + ROWS] for name, array in data.inputs.items()})
                for start in range(0, max(len(data), 1), ROWS)
            ]
        except ProtocolError as error:
            raise DataError(f"the preprocessing steps: {error}", subject="preprocess", hint=error.hint) from error
        names = [tensor.name for tensor in pipeline.ready]
        return Dataset({name: np.concatenate([part[name] for part in parts]) for name in names}, data.y)

    def opened(self, inputs: Mapping[str, Array]) -> Before | None:
        """Front and steps in memory, for raw inputs like these, each (n, …); None without any.

        For a process that may run model files. Raises DataError where they do not fit, ModelLoadError for the front.
        """
        pipeline = self.pipeline(inputs)
        if pipeline is None:
            return None
        return runtimes.before(pipeline, self.front.data if self.front is not None else b"")


NO_STEPS = Preparation()


def imputed(steps: Sequence[AnyStep]) -> frozenset[str]:
    """The raw inputs in which steps put a value in the place of NaN: they may hold it."""
    made = {step.output for step in steps if isinstance(step, Concat)}
    return frozenset(step.input for step in steps if isinstance(step, Impute) and step.input not in made)


def tensors_of(inputs: Mapping[str, Array], loose: Collection[str], *, batched: bool) -> list[Tensor]:
    """Return inputs (n, …) as a manifest will describe them; those in `loose` may hold NaN and infinity."""
    return [
        Tensor(
            name=name,
            datatype=datatype_of(array),
            shape=(-1, *array.shape[1:]) if batched else array.shape[1:],
            finite=name not in loose,
        )
        for name, array in inputs.items()
    ]


def read_steps(data: bytes, subject: str) -> tuple[AnyStep, ...]:
    """Steps from a JSON list, each with its constants.

    Raises DataError for anything else; the message has the place.
    """
    try:
        steps = msgspec.json.decode(data, type=tuple[AnyStep, ...])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f"{subject}: not a list of preprocessing steps: {error}",
            subject=subject,
            hint='[{"kind": "normalise", "input": "x", "mean": [0.5], "std": [0.25]}, …]; see docs/preprocessing.md',
        ) from error
    unfitted = [step for step in steps if step.needs_fitting]
    if unfitted:
        raise DataError(
            f"{subject}: step {unfitted[0].kind} of {', '.join(unfitted[0].takes)} has no constants",
            subject=subject,
            hint="give those that the model was trained with: " + ", ".join(unfitted[0].fitted),
        )
    return steps

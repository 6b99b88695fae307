"""Constants of a recipe's preprocessing steps, fitted to the rows that are trained on. Pure.

    scale      the least value becomes 0, the largest 1        clip     the least and the largest value
    normalise  mean and standard deviation, 1 for what does    impute   the median of what is there
               not vary                                        one-hot, ordinal   the values that occur, in order

One of each for every element along the step's axis. NaN counts for nothing. Constants that the recipe gives stay.
Numbers are fitted again to all rows of a retrain; a vocabulary is that of the recipe's own rows, so that columns
stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from msgspec import structs

from cloud_hub.errors import InvalidError
from cloud_hub.training.examples import Examples
from fleet.protocol.steps import AnyStep, Clip, Impute, Normalise, OneHot, Ordinal, Scale, Step
from model_compiler.build import fronts
from model_compiler.errors import DataError
from model_compiler.inputs.dataset import Array, Dataset
from model_compiler.inputs.preprocessing import NO_STEPS, Preparation

Constants = dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class FittedSteps:
    """A run's steps with their constants, and the dtypes of what the networks take, by name and in their order."""

    preparation: Preparation = NO_STEPS
    dtypes: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self, raw: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the inputs of the networks, (n, …), of raw inputs (n, …); these themselves where there are no steps.

        Raises:
            InvalidError: a step cannot work on the values.
        """
        if not self.preparation:
            return raw
        found = _before(self.preparation, raw).inputs
        return {name: found[name].astype(dtype, copy=False) for name, dtype in self.dtypes.items()}

    def ready(self, examples: Examples) -> Examples:
        """Rows as the networks take them; raises InvalidError likewise."""
        return Examples(self.inputs(examples.inputs), examples.y, examples.known) if self.preparation else examples


NO_FITTED_STEPS = FittedSteps()


def fitted(declared: Preparation, inputs: Mapping[str, Array]) -> tuple[AnyStep, ...]:
    """The steps, each that lacks constants with those that the rows before it give.

    Args:
        declared: front and steps as the recipe declares them.
        inputs: raw inputs (n, …) of the rows that are trained on, by the release's names.

    Raises:
        InvalidError: the rows are not what front or a step takes, or say nothing (an input of NaN alone).
    """
    may, found = set(declared.loose), []
    data = _before(structs.replace(declared, steps=()), inputs)
    for step in declared.steps:
        missing = [name for name in step.takes if name not in data.inputs]
        if missing:
            raise _unfit(step, f"there is no {missing[0]!r}; there are {', '.join(data.inputs)}")
        if step.needs_fitting:
            constants = FITS[type(step)](step, data.inputs[step.takes[0]])
            given = {name: value for name, value in constants.items() if not getattr(step, name)}
            step = structs.replace(step, **given)
        data = _before(Preparation(steps=(step,), loose=tuple(may & set(data.inputs))), data.inputs)
        may -= set(step.takes) if isinstance(step, Impute) else set()
        found.append(step)
    return tuple(found)


def with_vocabularies(declared: Preparation, inputs: Mapping[str, Array]) -> Preparation:
    """The steps as declared, each that lacks a vocabulary with that of `inputs`, the recipe's own rows (n, …).

    Samples bring new words; were these to join, the step would make other columns than those that the networks take.

    Raises InvalidError as `fitted`.
    """
    if not any(isinstance(step, OneHot | Ordinal) and step.needs_fitting for step in declared.steps):
        return declared
    own = zip(declared.steps, fitted(declared, inputs), strict=True)
    steps = tuple(done if isinstance(step, OneHot | Ordinal) else step for step, done in own)
    return structs.replace(declared, steps=steps)


def _before(preparation: Preparation, inputs: Mapping[str, Array]) -> Dataset:
    """Apply front and steps to inputs (n, …).

    Raises:
        InvalidError: they cannot work on the values.
    """
    try:
        return fronts.ready(preparation, Dataset(dict(inputs)))
    except DataError as error:
        raise InvalidError(f"the recipe: {error}", subject="preprocess", hint=error.hint) from error


def _numbers(step: Any, array: Array) -> Array:
    """The values (m, elements) that go into each constant."""
    if array.dtype.kind not in "fiub":
        raise _unfit(step, "it holds text", hint="encode it first: one-hot or ordinal")
    rows = array.astype(np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if not -(rows.ndim - 1) <= step.axis <= -1:
        raise _unfit(step, f"axis {step.axis} of rows {list(rows.shape[1:])}", hint="-1 is the last")
    columns: Array = np.moveaxis(rows, step.axis, -1).reshape(-1, rows.shape[step.axis])
    empty = np.flatnonzero(~np.isfinite(columns).any(axis=0))
    if len(empty):
        raise _unfit(step, f"element {int(empty[0])} is NaN or infinite in every row that is trained on")
    return np.where(np.isfinite(columns), columns, np.nan)


def _plain(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _scale(step: AnyStep, array: Array) -> Constants:
    columns = _numbers(step, array)
    low, high = np.nanmin(columns, axis=0), np.nanmax(columns, axis=0)
    factor = 1.0 / np.where(high > low, high - low, 1.0)
    return {"factor": _plain(factor), "offset": _plain(-low * factor)}


def _normalise(step: AnyStep, array: Array) -> Constants:
    columns = _numbers(step, array)
    std = np.nanstd(columns, axis=0)
    return {"mean": _plain(np.nanmean(columns, axis=0)), "std": _plain(np.where(std > 0, std, 1.0))}


def _clip(step: AnyStep, array: Array) -> Constants:
    columns = _numbers(step, array)
    return {"low": _plain(np.nanmin(columns, axis=0)), "high": _plain(np.nanmax(columns, axis=0))}


def _impute(step: AnyStep, array: Array) -> Constants:
    return {"value": _plain(np.nanmedian(_numbers(step, array), axis=0))}


def _vocabulary(step: AnyStep, array: Array) -> Constants:
    if array.dtype.kind not in "Oiub":
        raise _unfit(step, f"it holds {array.dtype}", hint="a vocabulary is of text or whole numbers")
    try:
        words = {v.decode() if isinstance(v, bytes) else v if isinstance(v, str) else int(v) for v in array.ravel()}
    except UnicodeDecodeError as error:
        raise _unfit(step, "it holds text that is not UTF-8") from error
    return {"vocabulary": tuple(sorted(words))}


FITS: dict[type[Step], Callable[[Any, Array], Constants]] = {
    Scale: _scale,
    Normalise: _normalise,
    Clip: _clip,
    Impute: _impute,
    OneHot: _vocabulary,
    Ordinal: _vocabulary,
}


def _unfit(step: AnyStep, why: str, *, hint: str = "") -> InvalidError:
    return InvalidError(
        f"the recipe: step {step.kind} of {', '.join(step.takes)}: {why}", subject="preprocess", hint=hint
    )

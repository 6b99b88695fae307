"""A torch module as the converters want it: positional tensors in, a tensor or a tuple of tensors out.

What a user's module may do instead: take its inputs by name, take integers where the data file holds
floats, take channels first where the data is channels last, or answer with a dict or a list.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from model_compiler.data import Dataset
from model_compiler.errors import DataError, SourceError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Adapted:
    """`dtypes` are what the module takes of each input; `outputs` the names of what it gives, in order."""

    module: torch.nn.Module
    dtypes: Mapping[str, Any]
    outputs: tuple[str, ...]


def adapt(module: torch.nn.Module, data: Dataset, *, channels_last: bool = False, lone: str = "logits") -> Adapted:
    """Find out by one run how `module` takes the inputs of `data`, and wrap it where that is not by position.

    Args:
        channels_last: inputs with four axes are (n, height, width, channels) in the data; the module
            takes (n, channels, height, width).
        lone: the name of a single output that has none.

    Raises:
        SourceError: the module does not run on the first sample, in its own words.
    """
    order = _order(module, tuple(data.inputs))
    by_name = tuple(data.inputs) if order else ()
    wrapped = _module(module, by_name, channels_last)
    dtypes, answer = _first_run(_module(module, by_name, channels_last, flat=False), data)
    names = _names(answer, lone)
    if order or channels_last or not _plain(answer):
        return Adapted(wrapped, dtypes, names)
    return Adapted(module, dtypes, names)


def _order(module: torch.nn.Module, names: tuple[str, ...]) -> bool:
    """Whether inputs must be passed by name: the module knows all the names, in another order."""
    known = inspect.signature(module.forward).parameters.items()
    parameters = [name for name, kind in known if kind.kind is kind.POSITIONAL_OR_KEYWORD]
    return set(names) <= set(parameters) and parameters[: len(names)] != list(names)


def _first_run(module: torch.nn.Module, data: Dataset) -> tuple[dict[str, Any], Any]:
    import torch

    kinds = {name: array.dtype for name, array in data.inputs.items()}
    tries = [kinds, {name: np.dtype(np.float32) for name in kinds}]
    words = ""
    for dtypes in tries:
        sample = data.take(slice(1)).cast(dtypes)
        # The module is the user's and may raise anything; this is the boundary that says so.
        try:
            with torch.no_grad():
                return dtypes, module(*(torch.from_numpy(array) for array in sample.inputs.values()))
        except Exception as error:  # noqa: BLE001
            words = words or (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    shapes = ", ".join(f"{name} {[1, *shape]}" for name, shape in data.shapes().items())
    raise SourceError(
        f"the model does not run on the data ({shapes}): {words}",
        hint="check the shapes, the layout (--channels-last) and the names of the inputs",
    )


def _plain(answer: Any) -> bool:
    import torch

    return isinstance(answer, torch.Tensor) or (
        isinstance(answer, tuple) and all(isinstance(value, torch.Tensor) for value in answer)
    )


def _names(answer: Any, lone: str) -> tuple[str, ...]:
    found = _flat(answer)
    if not found:
        raise SourceError(f"the model answers with {type(answer).__name__}, not with tensors")
    if len(found) == 1:
        return (next(iter(found)) if isinstance(answer, Mapping) else lone,)
    return tuple(found)


def _flat(answer: Any, prefix: str = "output") -> dict[str, Any]:
    """The tensors of a nested answer, named by dict keys or by place."""
    import torch

    if isinstance(answer, torch.Tensor):
        return {prefix: answer}
    found: dict[str, Any] = {}
    if isinstance(answer, Mapping):
        for key, value in answer.items():
            found |= _flat(value, str(key))
    elif isinstance(answer, Sequence) and not isinstance(answer, str):
        for place, value in enumerate(answer):
            found |= _flat(value, f"{prefix}_{place}")
    return found


def _module(
    module: torch.nn.Module, names: tuple[str, ...], channels_last: bool, *, flat: bool = True
) -> torch.nn.Module:
    import torch

    class Positional(torch.nn.Module):
        """Defined here because torch loads only when it is needed."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *values: torch.Tensor) -> Any:
            """Inputs in the data's order."""
            if channels_last:
                values = tuple(v.permute(0, 3, 1, 2) if v.ndim == 4 else v for v in values)
            answer = self.inner(**dict(zip(names, values, strict=True))) if names else self.inner(*values)
            tensors = tuple(_flat(answer).values()) if flat else ()
            return answer if not flat else tensors[0] if len(tensors) == 1 else tensors

    # An exported program is already in evaluation mode and refuses to be told.
    wrapped = Positional()
    wrapped.training = False
    return wrapped


def check_channels_last(data: Dataset) -> None:
    """Raise DataError when no input has four axes, so that the option would mean nothing."""
    if all(array.ndim != 4 for array in data.inputs.values()):
        raise DataError("--channels-last needs an input of shape (n, height, width, channels)")

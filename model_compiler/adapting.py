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

from model_compiler import naming
from model_compiler.data import Array, Dataset
from model_compiler.errors import DataError, SourceError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Adapted:
    """`module` takes tensors in the order of `data` and gives a tensor or a tuple of them.

    `data` is one sample, its inputs called as in the release and in the dtypes that the module takes; `names` maps the
    data's names to these. `outputs` are the answers to it, by the release's names, each (1, …) as a rule.
    """

    module: torch.nn.Module
    data: Dataset
    names: Mapping[str, str]
    outputs: Mapping[str, Array]

    def fit(self, data: Dataset) -> Dataset:
        """A data set with the release's names and in the module's dtypes."""
        return data.renamed(self.names).cast({name: array.dtype for name, array in self.data.inputs.items()})


def adapt(
    module: torch.nn.Module,
    data: Dataset,
    *,
    channels_last: bool = False,
    classes: bool = True,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> Adapted:
    """Find out by one run how `module` takes the inputs of `data`, and wrap it where that is not by position.

    Args:
        channels_last: inputs with four axes are (n, height, width, channels) in the data; the module
            takes (n, channels, height, width).
        classes: whether a single output without a name is called `logits`, else `output`.
        inputs: the names that were asked for; empty for the data's and the module's own.
        outputs: likewise, of the outputs.

    Raises:
        DataError: the inputs of the data and of the module cannot be paired.
        SourceError: the module does not run on the first sample, in its own words, or gives other outputs.
    """
    own = naming.parameters(module)
    names = naming.input_names(tuple(data.inputs), own, inputs)
    sample = data.take(slice(1)).renamed(names)
    passed = _passed(module, tuple(names.values()))
    dtypes, answer = _first_run(_module(module, passed, channels_last), sample)
    named = isinstance(answer, Mapping)
    found = _flat(answer)
    if not found:
        raise SourceError(f"the model answers with {type(answer).__name__}, not with tensors")
    lone = naming.lone_output(classes, tuple(names.values()))
    results = naming.output_names(found, outputs, named=named, lone=lone)
    wrapped = module
    if passed or channels_last or list(results) != list(found) or not _plain(answer):
        wrapped = _module(module, passed, channels_last, results=tuple(results))
    answers = naming.numbers_of({new: found[old] for old, new in results.items()})
    return Adapted(wrapped, sample.cast(dtypes), names, answers)


def _passed(module: torch.nn.Module, names: tuple[str, ...]) -> tuple[str, ...]:
    """The keywords under which `forward` gets its inputs, in the order of `names`; empty where places do."""
    known = inspect.signature(module.forward).parameters
    kinds = {item.kind for item in known.values()}
    placed = [n for n, item in known.items() if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    if len(names) == 1:
        keywords = [name for name, item in known.items() if item.kind is item.KEYWORD_ONLY]
        if placed or inspect.Parameter.VAR_POSITIONAL in kinds:
            return ()
        return (keywords[0],) if keywords else names
    if set(names) <= set(known) or inspect.Parameter.VAR_KEYWORD in kinds:
        return () if placed[: len(names)] == list(names) else names
    return ()


def _first_run(module: torch.nn.Module, data: Dataset) -> tuple[dict[str, Any], Any]:
    import torch

    kinds = {name: array.dtype for name, array in data.inputs.items()}
    tries = [kinds, {name: np.dtype(np.float32) for name in kinds}]
    words = ""
    for dtypes in tries:
        sample = data.cast(dtypes)
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
    module: torch.nn.Module, keywords: tuple[str, ...], channels_last: bool, *, results: tuple[str, ...] = ()
) -> torch.nn.Module:
    """Tensors by place in; with `results` these tensors of the answer out, in that order, else the answer as it is."""
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
            answer = self.inner(**dict(zip(keywords, values, strict=True))) if keywords else self.inner(*values)
            if not results:
                return answer
            found = _flat(answer)
            tensors = tuple(found[name] for name in results)
            return tensors[0] if len(tensors) == 1 else tensors

    # An exported program is already in evaluation mode and refuses to be told.
    wrapped = Positional()
    wrapped.training = False
    return wrapped


def check_channels_last(data: Dataset) -> None:
    """Raise DataError when no input has four axes, so that the option would mean nothing."""
    if all(array.ndim != 4 for array in data.inputs.values()):
        raise DataError("--channels-last needs an input of shape (n, height, width, channels)")

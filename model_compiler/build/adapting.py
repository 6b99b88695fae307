"""A torch module as the converters want it: positional tensors in, a tensor or a tuple of tensors out.

What a user's module may do instead: take its inputs by name, take integers or another precision where the data file
holds floats, take channels first where the data is channels last, or answer with a dict or a list.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from model_compiler.errors import DataError, SourceError
from model_compiler.inputs import naming
from model_compiler.inputs.dataset import Array, Dataset, plain, wanted

if TYPE_CHECKING:
    import torch

Kinds = dict[str, np.dtype[Any]]
NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Adapted:
    """`module` takes tensors in the order of `data` and gives a tensor or a tuple of them.

    `data` is one sample, its inputs called as in the release and in the dtypes that the module takes; `names` maps the
    data's names to these. `outputs` are the answers to it, by the release's names, each (1, …) as a rule. `raw` takes
    tensors as `module` does, and gives what the author's `forward` gives: in training that may be more.
    """

    module: torch.nn.Module
    data: Dataset
    names: Mapping[str, str]
    outputs: Mapping[str, Array]
    raw: torch.nn.Module

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
    known: Mapping[str, str] = NONE,
) -> Adapted:
    """Find out by one run how `module` takes the inputs of `data`, and wrap it where that is not by position.

    Its inputs have the datatypes of the data where the module runs on them. Double precision is numpy's habit more than
    anybody's choice: it is kept only for a module that computes in it.

    Args:
        channels_last: inputs with four axes are (n, height, width, channels) in the data; the module
            takes (n, channels, height, width).
        classes: whether a single output without a name is called `logits`, else `output`.
        inputs: the names that were asked for; empty for the data's and the module's own.
        outputs: likewise, of the outputs.
        known: the datatypes that applications of an existing model send, by input; they are tried first.

    Raises:
        DataError: the inputs of the data and of the module cannot be paired.
        InterfaceError: other inputs or outputs than were asked for.
        SourceError: the module does not run on the first sample, in its own words.
    """
    own = naming.parameters(module)
    names = naming.input_names(tuple(data.inputs), own, inputs)
    sample = data.take(slice(1)).renamed(names)
    way, dtypes, answer = _first_run(module, sample, channels_last, known)
    named = isinstance(answer, Mapping)
    found = _flat(answer)
    if not found:
        raise SourceError(f"the model answers with {type(answer).__name__}, not with tensors")
    lone = naming.lone_output(classes, tuple(names.values()))
    results = naming.output_names(found, outputs, named=named, lone=lone)
    wrapped = raw = module
    straight = way == _Way(tuple(range(len(names))))
    if not straight or channels_last or list(results) != list(found) or not _plain(answer):
        wrapped = _module(module, way, channels_last, results=tuple(results))
    if not straight or channels_last:
        raw = _module(module, way, channels_last)
    answers = naming.numbers_of({new: found[old] for old, new in results.items()})
    return Adapted(wrapped, sample.cast(dtypes), names, answers, raw)


class _Way(NamedTuple):
    """The way in which `forward` gets its inputs: by place in `order`, or under `keywords`."""

    order: tuple[int, ...]
    keywords: tuple[str, ...] = ()


def _ways(module: torch.nn.Module, names: tuple[str, ...]) -> list[_Way]:
    """Every way that may be the module's, the likeliest first: an exported program insists on its own."""
    known = inspect.signature(module.forward).parameters
    kinds = {item.kind for item in known.values()}
    placed = [n for n, item in known.items() if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    straight = tuple(range(len(names)))
    ways: list[_Way] = []
    if len(names) == 1:
        if placed or inspect.Parameter.VAR_POSITIONAL in kinds:
            ways.append(_Way(straight))
        named = [name for name, item in known.items() if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
        ways.append(_Way(straight, (named[0],) if named else names))
        return ways
    if set(placed[: len(names)]) == set(names):
        ways.append(_Way(tuple(names.index(name) for name in placed[: len(names)])))
    if set(names) <= set(known) or inspect.Parameter.VAR_KEYWORD in kinds:
        ways.append(_Way(straight, names))
    return ways or [_Way(straight)]


def _first_run(
    module: torch.nn.Module, data: Dataset, channels_last: bool, known: Mapping[str, str]
) -> tuple[_Way, Kinds, Any]:
    import torch

    words = ""
    for dtypes in _choices(module, {name: array.dtype for name, array in data.inputs.items()}, known):
        sample = data.cast(dtypes)
        for way in _ways(module, tuple(data.inputs)):
            asked = _module(module, way, channels_last)
            # The module is the user's and may raise anything; this is the boundary that says so.
            try:
                with torch.no_grad():
                    return way, dtypes, asked(*(torch.from_numpy(array) for array in sample.inputs.values()))
            except Exception as error:  # noqa: BLE001
                words = words or (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    shapes = ", ".join(f"{name} {[1, *shape]}" for name, shape in data.shapes().items())
    raise SourceError(
        f"the model does not run on the data ({shapes}): {words}",
        hint="check the shapes, the layout (--channels-last) and the names of the inputs",
    )


def _choices(module: torch.nn.Module, given: Kinds, known: Mapping[str, str]) -> list[Kinds]:
    """Every set of dtypes that the module may take the data in, the likeliest first."""
    own = _precisions(module)
    single = np.dtype(np.float32)

    def real(precision: np.dtype[Any] | None) -> Kinds:
        """The data's dtypes, with real numbers in this precision; None for their own, unless that is habit."""
        kept = {n: single if d == np.float64 and d not in own else d for n, d in given.items()}
        return {n: precision or kept[n] if d.kind == "f" else d for n, d in given.items()}

    found = [
        real(None),
        real(single),
        {name: plain(dtype) for name, dtype in given.items()},
        *(real(dtype) for dtype in own),
        dict.fromkeys(given, single),
    ]
    if known:
        found.insert(0, {name: wanted(known, name, given[name]) or dtype for name, dtype in found[0].items()})
    return [choice for place, choice in enumerate(found) if choice not in found[:place]]


def _precisions(module: torch.nn.Module) -> list[np.dtype[Any]]:
    """The precisions of its weights, of those that numpy knows."""
    kinds = {str(value.dtype).removeprefix("torch.") for value in (*module.parameters(), *module.buffers())}
    return [np.dtype(name) for name in ("float16", "float32", "float64") if name in kinds]


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
    module: torch.nn.Module, way: _Way, channels_last: bool, *, results: tuple[str, ...] = ()
) -> torch.nn.Module:
    """Tensors by place in; with `results` these tensors of the answer out, in that order, else the answer as it is."""
    import torch

    class Positional(torch.nn.Module):
        """Defined here because torch loads only when it is needed."""

        wraps = True

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *values: torch.Tensor) -> Any:
            """Inputs in the data's order."""
            if channels_last:
                values = tuple(v.permute(0, 3, 1, 2) if v.ndim == 4 else v for v in values)
            if way.keywords:
                answer = self.inner(**dict(zip(way.keywords, values, strict=True)))
            else:
                answer = self.inner(*(values[place] for place in way.order))
            if not results:
                return answer
            found = _flat(answer)
            tensors = tuple(found[name] for name in results)
            return tensors[0] if len(tensors) == 1 else tensors

    # An exported program is already in evaluation mode and refuses to be told.
    wrapped = Positional()
    wrapped.training = False
    return wrapped


def original(module: torch.nn.Module) -> torch.nn.Module:
    """The module that `adapt` was given, if this is what it put around one; the weights are the same."""
    inner: Any = module.inner if getattr(module, "wraps", False) else module
    found: torch.nn.Module = inner
    return found


def export_program(module: torch.nn.Module, data: Dataset, outputs: Sequence[str]) -> Any:
    """A torch.export program with a variable batch from which the compiler reads these names again.

    The module as its author made it, where that has the names by itself; else one around it whose `forward` has the
    inputs as parameters and answers with a dict.

    Args:
        module: what `adapt` gave for `data` and `outputs`.
        data: two samples, the inputs called and ordered as in the release.
    """
    import torch

    own, names = original(module), tuple(data.inputs)
    tensors = {name: torch.from_numpy(array) for name, array in data.inputs.items()}
    batch = {0: torch.export.Dim("batch")}
    order = [name for name in naming.parameters(own) if name in names] if len(names) > 1 else list(names)
    kept = _keeps(own, data, order, outputs)
    program = own if kept else _spelled(module, names, tuple(outputs))
    given = tuple(tensors[name] for name in (order if kept else names))
    return torch.export.export(program, given, dynamic_shapes=tuple(batch for _ in names))


def _keeps(own: torch.nn.Module, data: Dataset, order: Sequence[str], outputs: Sequence[str]) -> bool:
    """Tell whether the compiler finds these names in the module by itself, its inputs given by place in this order."""
    names = list(data.inputs)
    places = {
        item.name for item in inspect.signature(own.forward).parameters.values() if item.kind != item.KEYWORD_ONLY
    }
    if len(names) > 1 and (sorted(order) != sorted(names) or not set(names) <= places):
        return False
    if len(names) > 1 and list(naming.parameters(own))[: len(names)] != list(order):
        return False
    found = adapt(own, data)
    return list(found.data.inputs) == names and list(found.outputs) == list(outputs)


def _spelled(module: torch.nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> torch.nn.Module:
    import torch

    class Named(torch.nn.Module):
        """As above."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *values: torch.Tensor) -> dict[str, torch.Tensor]:
            """Inputs in their order, outputs by name."""
            answer = self.inner(*values)
            return dict(zip(outputs, (answer,) if isinstance(answer, torch.Tensor) else answer, strict=True))

    named = Named()
    named.training = False
    # torch.export takes the parameters' names from the signature; what cannot be one is named by the data alone.
    if all(name.isidentifier() and not keyword.iskeyword(name) and name != "self" for name in inputs):
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        forward = named.forward

        def signed(*values: torch.Tensor) -> Any:
            return forward(*values)

        parameters = inspect.Signature([inspect.Parameter(name, kind) for name in inputs])
        signed.__signature__ = parameters  # type: ignore[attr-defined]
        named.__dict__["forward"] = signed
    return named


def check_channels_last(data: Dataset) -> None:
    """Raise DataError when no input has four axes, so that the option would mean nothing."""
    if all(array.ndim != 4 for array in data.inputs.values()):
        raise DataError("--channels-last needs an input of shape (n, height, width, channels)")

"""Names a model's inputs and outputs, and checks them against what its applications rely on.

Names come from the interface of an existing model or from the command line; else from the model itself (the
parameters of `forward`, the graph of an ONNX file) and from the data. A lone array called `x` is what examples
write when they mean "the input": it takes the model's own name. Several inputs are paired by name; by place only
where the model has no names for them (`*args`, and LiteRT files, whose converters number them).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs

from fleet.protocol.drift_encoder import Encoder, sketch_id
from fleet.protocol.errors import ProtocolError
from fleet.protocol.interface import Interface, check_names, differences, lost_sketch, unfit
from fleet.protocol.manifest import Tensor
from fleet.protocol.tensors import datatype_of
from model_compiler.errors import DataError, InterfaceError
from model_compiler.inputs.dataset import UNNAMED, Array

if TYPE_CHECKING:
    import torch

_HINT = "rename the arrays of the data, or the parameters of forward"


def parameters(module: torch.nn.Module) -> tuple[str, ...]:
    """The parameters of `forward` that can hold an input, in order; empty where it takes any (`*args`, `**kwargs`)."""
    known = inspect.signature(module.forward).parameters.values()
    if any(item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD) for item in known):
        return ()
    return tuple(item.name for item in known)


def input_names(data: Sequence[str], own: Sequence[str], declared: Sequence[str]) -> dict[str, str]:
    """For each input of the data its name in the release, in the release's order.

    Args:
        data: the names in the data.
        own: the names that the model itself has, among others; empty when it has none.
        declared: the names that were asked for, in order; empty when none were.

    Raises:
        InterfaceError: the data has other inputs than were asked for.
        DataError: the data has inputs that the model does not take; both sides are in the message.
    """
    if declared and len(declared) != len(data):
        raise InterfaceError(
            f"the model takes {len(declared)} inputs, the data has {len(data)}: {', '.join(data)}; "
            f"the model's are {', '.join(declared)}",
            hint="name the arrays of the data as the model's inputs",
        )
    if len(declared) > 1 and set(declared) != set(data):
        raise InterfaceError(
            f"the model's inputs are {', '.join(declared)}; the data has {', '.join(data)}",
            hint="name the arrays of the data as the model's inputs",
        )
    if len(data) == 1:
        (given,) = data
        return {given: declared[0] if declared else own[0] if own and given == UNNAMED else given}
    if own and not set(data) <= set(own):
        raise DataError(
            f"the model takes {', '.join(own)}; the data has {', '.join(data)}: several inputs are paired by name",
            hint=_HINT,
        )
    return {name: name for name in declared or data}


def output_names(own: Mapping[str, Any], declared: Sequence[str], *, named: bool, lone: str) -> dict[str, str]:
    """For each output of the model, by its own name, its name in the release, in the release's order.

    Args:
        own: the outputs by the name, or by the number, that the model gives them.
        declared: the names that were asked for; empty when none were.
        named: whether the model itself names its outputs.
        lone: the name of a single output that has none.

    Raises:
        InterfaceError: other outputs than were asked for; both sides are in the message.
    """
    mine = tuple(own)
    if not declared:
        return {mine[0]: mine[0] if named else lone} if len(mine) == 1 else {name: name for name in mine}
    if len(declared) != len(mine) or (len(mine) > 1 and named and set(declared) != set(mine)):
        raise InterfaceError(
            f"the model's outputs are {', '.join(declared)}; this one gives {', '.join(mine)}",
            hint="give the outputs in a dict by these names",
        )
    if len(mine) > 1 and named:
        return {name: name for name in declared}
    return dict(zip(mine, declared, strict=True))


def lone_output(classes: bool, inputs: Sequence[str]) -> str:
    """Return the name of a single output without one; never an input's, which ONNX would take for the same value."""
    return next(name for name in ("logits" if classes else "output", "output", "answer") if name not in inputs)


def tensor_of(name: str, array: Array, shape: tuple[int, ...], current: Interface | None, kind: str) -> Tensor:
    """An input or output as the manifest says it, with what only the model's interface says.

    That is whether it may hold NaN, and sizes that applications know as fixed where the files would take any.

    Args:
        name: of the input or output.
        array: some samples (n, …), for the datatype.
        shape: as the files take it, -1 for a variable size.
        current: the model's interface.
        kind: "input" or "output".
    """
    known = () if current is None else current.inputs if kind == "input" else current.outputs
    same = next((tensor for tensor in known if tensor.name == name), None)
    if same is not None and len(same.shape) == len(shape):
        sizes = list(zip(same.shape, shape, strict=True))
        if all(own == -1 or own == size or (size == -1 and place) for place, (own, size) in enumerate(sizes)):
            shape = tuple(own if size == -1 else size for own, size in sizes)
    finite = same is None or same.finite
    return Tensor(name=name, datatype=datatype_of(array), shape=shape, finite=finite)


def check_early(
    current: Interface, inputs: Mapping[str, Array], outputs: Mapping[str, Array], labels: Sequence[str]
) -> None:
    """Raise InterfaceError when a model that is yet to be built would not keep `current`.

    Whether the files will take any batch is not known yet: the first axis is the current one's.

    Args:
        inputs: some samples, each (n, …).
        outputs: what the model answers to one or more, each (n, …).
        labels: the class names; empty for the current ones.
    """

    new = Interface(
        inputs=_described(current, inputs, current.inputs, "input"),
        outputs=_described(current, outputs, current.outputs, "output"),
        labels=tuple(labels) or current.labels,
        sketch_id=current.sketch_id,
        task=current.named_task,
        preprocess=current.preprocess,
    )
    check_kept(current, new)


def check_inputs(current: Interface, inputs: Mapping[str, Array]) -> None:
    """As `check_early`, of what applications send; the outputs of their model are not known yet."""
    check_kept(current, structs.replace(current, inputs=_described(current, inputs, current.inputs, "input")))


def _described(
    current: Interface, arrays: Mapping[str, Array], known: Sequence[Tensor], kind: str
) -> tuple[Tensor, ...]:
    leading = (-1,) if all(tensor.shape[:1] == (-1,) for tensor in known) else ()
    made = [tensor_of(name, a, (*leading, *a.shape[1:]), current, kind) for name, a in arrays.items()]
    return tuple(_filled(tensor, known) for tensor in made)


def _filled(tensor: Tensor, known: Sequence[Tensor]) -> Tensor:
    """A size that varies in the current interface may be any here."""
    for other in known:
        if other.name == tensor.name and len(other.shape) == len(tensor.shape):
            sizes = zip(other.shape, tensor.shape, strict=True)
            if all(a in (-1, b) for a, b in sizes):
                return Tensor(name=tensor.name, datatype=tensor.datatype, shape=other.shape, finite=tensor.finite)
    return tensor


def check_kept(current: Interface, new: Interface) -> None:
    """Raise InterfaceError that shows both sides unless `new` keeps `current`."""
    found = differences(current, new) + list(filter(None, [lost_sketch(current, new)]))
    if found:
        raise InterfaceError("; ".join(found), hint="a changed interface is a new model name: fleet model create NAME")


def check_release_names(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Raise DataError for names that no request can carry."""
    try:
        check_names(inputs, "input")
        check_names(outputs, "output")
    except ProtocolError as error:
        raise DataError(str(error), hint=error.hint) from error


def check_encoder(encoder: Encoder, inputs: Mapping[str, Array]) -> None:
    """Raise InterfaceError when the model's encoder cannot watch these inputs, each (n, …)."""
    found = [Tensor(name=n, datatype=datatype_of(a), shape=(-1, *a.shape[1:])) for n, a in inputs.items()]
    why = unfit(encoder, found)
    if why:
        raise InterfaceError(
            f"{why} (sketch {sketch_id(encoder)[:12]})",
            hint="a changed interface is a new model name: fleet model create NAME",
        )


def numbers_of(answers: Mapping[str, Any]) -> dict[str, Array]:
    """Tensors as arrays, real ones as float32, as runtimes give them."""
    arrays = {name: np.asarray(value.detach().cpu().numpy()) for name, value in answers.items()}
    return {name: a if a.dtype.kind in "iub" else a.astype(np.float32) for name, a in arrays.items()}

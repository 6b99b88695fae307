"""Reads a model's source: a torch module, an exported program, or an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model_compiler.errors import SourceError
from model_compiler.user_file import run_file, said

if TYPE_CHECKING:
    import torch


def load_torch(source: str, weights: Path | None) -> torch.nn.Module:
    """Load `model.pt2` (torch.export) or `file.py:factory` with safetensors weights.

    The Python file is run: name only files you trust, as with any program.

    Raises:
        SourceError: missing, not loadable, or weights that do not fit.
    """
    if source.endswith(".pt2"):
        return _load_exported(Path(source))
    path, _, factory = source.partition(":")
    if not path.endswith(".py") or not factory:
        raise SourceError(
            f"{source}: not a known source", subject=source, hint="give a .pt2, an .onnx, or file.py:factory"
        )
    module = _load_factory(Path(path), factory)
    if weights is not None:
        _load_weights(module, weights)
    return module.eval()


def _load_exported(path: Path) -> torch.nn.Module:
    import torch

    if not path.is_file():
        raise SourceError(f"{path}: no such file", subject=str(path))
    # torch.export raises many kinds for a damaged file; this is the boundary that names the file.
    try:
        return torch.export.load(path).module()
    except Exception as error:
        raise SourceError(f"{path}: not a torch.export program: {error}", subject=str(path)) from error


def _load_factory(path: Path, factory: str) -> torch.nn.Module:
    import torch

    make = getattr(run_file(path), factory, None)
    # As above: the factory is the user's.
    try:
        module = make() if callable(make) else None
    except (Exception, SystemExit) as error:
        raise SourceError(f"{path}: {factory}() cannot be called: {said(error)}", subject=str(path)) from error
    if not isinstance(module, torch.nn.Module):
        raise SourceError(f"{path}: {factory}() does not return a torch module", subject=str(path))
    return module


def _load_weights(module: torch.nn.Module, weights: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise SourceError(f"{weights}: weights do not fit the model: {error}", subject=str(weights)) from error


def load_onnx(path: Path) -> bytes:
    """The checked bytes of an ONNX model; external data is refused rather than resolved.

    Raises:
        SourceError: missing, damaged, or with external data.
    """
    import onnx

    try:
        data = path.read_bytes()
        model = onnx.load_from_string(data)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model)):
            raise SourceError(f"{path}: keeps weights in other files", subject=str(path), hint="save it as one file")
        onnx.checker.check_model(model)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}", subject=str(path)) from error
    except (onnx.checker.ValidationError, ValueError) as error:
        raise SourceError(f"{path}: not a valid ONNX model: {error}", subject=str(path)) from error
    except Exception as error:  # protobuf's DecodeError has moved between packages
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path}: not an ONNX model: {error}", subject=str(path)) from error
    return data


def _tensors(model: Any) -> list[Any]:
    """Every tensor of the graph and of its subgraphs."""
    found, graphs = [], [model.graph]
    while graphs:
        graph = graphs.pop()
        found += list(graph.initializer)
        for node in graph.node:
            for attribute in node.attribute:
                found += [attribute.t, *attribute.tensors]
                graphs += [g for g in (attribute.g, *attribute.graphs) if g.node or g.initializer]
    return found


def example_of(x: np.ndarray[Any, Any]) -> torch.Tensor:
    """A batch of one, as torch traces it."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(x[:1]))


def onnx_names(data: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of an ONNX model's inputs (initializers left out) and outputs; `data` has been checked."""
    import onnx

    graph = onnx.load_from_string(data).graph
    constants = {tensor.name for tensor in graph.initializer}
    return tuple(v.name for v in graph.input if v.name not in constants), tuple(v.name for v in graph.output)


def named(data: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Name the inputs and outputs of an ONNX model, in this order.

    A single one is renamed; several are paired by name, never by place.

    Raises:
        SourceError: the model has others; both sides are in the message.
    """
    import onnx

    own = onnx_names(data)
    if own == (tuple(inputs), tuple(outputs)):
        return data
    names: dict[str, str] = {}
    for kind, mine, wanted in (("inputs", own[0], inputs), ("outputs", own[1], outputs)):
        if len(mine) != len(wanted) or (len(mine) > 1 and set(mine) != set(wanted)):
            raise SourceError(
                f"the {kind} are {', '.join(wanted)}; the ONNX model has {', '.join(mine)}",
                hint="export it with these names (torch.onnx.export: input_names, output_names)",
            )
        names |= zip(mine, wanted, strict=True) if len(mine) == 1 else zip(mine, mine, strict=True)
    if set(inputs) & set(outputs):
        raise SourceError(f"an input and an output have the same name: {', '.join(set(inputs) & set(outputs))}")
    model = onnx.load_from_string(renamed(data, names))
    for values, wanted in ((model.graph.input, inputs), (model.graph.output, outputs)):
        kept = sorted(values, key=lambda value: wanted.index(value.name) if value.name in wanted else len(wanted))
        del values[:]
        values.extend(kept)
    onnx.checker.check_model(model)
    made: bytes = model.SerializeToString()
    return made


def cloud_model(data: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return the teacher with the release's inputs and outputs, by name and in their order; other outputs are left out.

    Raises:
        SourceError: it has others; both sides are in the message.
    """
    try:
        if set(outputs) < set(onnx_names(data)[1]):
            data = _only_outputs(data, outputs)
        return named(data, inputs, outputs)
    except SourceError as error:
        raise SourceError(f"the cloud variant: {error}", subject="cloud", hint=error.hint) from error


def _only_outputs(data: bytes, names: Sequence[str]) -> bytes:
    import onnx

    model = onnx.load_from_string(data)
    kept = [value for value in model.graph.output if value.name in names]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    made: bytes = model.SerializeToString()
    return made


def renamed(data: bytes, names: Mapping[str, str]) -> bytes:
    """An ONNX model with values renamed (old to new); another value that has one of the new names gives way."""
    import onnx

    if all(old == new for old, new in names.items()):
        return data
    model = onnx.load_from_string(data)
    _rename_values(model.graph, names)
    onnx.checker.check_model(model)
    made: bytes = model.SerializeToString()
    return made


def _rename_values(graph: Any, names: Mapping[str, str]) -> None:
    taken = _value_names(graph)
    names = dict(names)
    for new in list(names.values()):
        if new in taken and new not in names:
            names[new] = next(free for n in count() if (free := f"{new}_{n}") not in taken | set(names.values()))

    pending = [graph]
    while pending:
        inner = pending.pop()
        for value in (*inner.input, *inner.output, *inner.value_info, *inner.initializer):
            value.name = names.get(value.name, value.name)
        for sparse in inner.sparse_initializer:
            sparse.values.name = names.get(sparse.values.name, sparse.values.name)
        for node in inner.node:
            node.input[:] = [names.get(value, value) for value in node.input]
            node.output[:] = [names.get(value, value) for value in node.output]
            for attribute in node.attribute:
                pending += [g for g in (attribute.g, *attribute.graphs) if g.node or g.output]


def _value_names(graph: Any) -> set[str]:
    """The names of all values of a graph and of its subgraphs."""
    found: set[str] = set()
    pending = [graph]
    while pending:
        inner = pending.pop()
        found |= {value.name for value in (*inner.input, *inner.output, *inner.value_info, *inner.initializer)}
        found |= {sparse.values.name for sparse in inner.sparse_initializer}
        for node in inner.node:
            found |= {*node.input, *node.output}
            for attribute in node.attribute:
                pending += [g for g in (attribute.g, *attribute.graphs) if g.node or g.output]
    return found


def channels_first(data: bytes) -> bytes:
    """An ONNX model whose inputs with four axes are channels last: each gets a transposition in front."""
    import onnx
    from onnx import helper

    model = onnx.load_from_string(data)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    added = []
    for value in graph.input:
        shape = value.type.tensor_type.shape
        if value.name in constants or len(shape.dim) != 4:
            continue
        inner = f"{value.name}_channels_first"
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == value.name:
                    node.input[place] = inner
        added.append(helper.make_node("Transpose", [value.name], [inner], perm=[0, 3, 1, 2]))
        turned = [shape.dim[axis] for axis in (0, 2, 3, 1)]
        dims = [onnx.TensorShapeProto.Dimension.FromString(dim.SerializeToString()) for dim in turned]
        del shape.dim[:]
        shape.dim.extend(dims)
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized

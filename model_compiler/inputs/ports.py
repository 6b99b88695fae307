"""The inputs and outputs that a model file says it has; nothing is executed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from fleet.protocol.manifest import Runtime
from fleet.runtimes.tensors import FileTensor
from model_compiler.errors import DataError, InterfaceError, SourceError
from model_compiler.inputs.dataset import Array, Dataset, refuse_lost

_NUMBERED = re.compile(r"args?_\d+")  # how litert-torch calls what it was given by place
# onnx.TensorProto.DataType, and ai_edge_litert's schema.TensorType, as the protocol calls them
_ONNX = {1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL"}
_ONNX |= {10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64"}
_LITERT = {0: "FP32", 1: "FP16", 2: "INT32", 3: "UINT8", 4: "INT64", 5: "BYTES", 6: "BOOL", 7: "INT16", 9: "INT8"}
_LITERT |= {10: "FP64", 12: "UINT64", 15: "UINT32", 16: "UINT16"}


@dataclass(frozen=True)
class Ports:
    """A file's tensors in its order. `named`: its inputs have names that somebody gave them."""

    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
    named: bool


def read(runtime: Runtime, data: bytes) -> Ports:
    """The tensors of a checked file; initializers are no inputs."""
    return _of_onnx(data) if runtime == "onnx" else _of_litert(data)


def takers(names: Sequence[str], found: Sequence[FileTensor]) -> dict[str, FileTensor]:
    """The file's tensor that takes each input: the one of its name, else the one in its place; none for inputs beyond.

    Names are those of the file's signature where it has all of them, else those of its tensors.
    """
    own = own_names(names, found)
    places = zip(names, found, strict=False)
    return dict(places) | {name: own[name] for name in names if name in own}


def own_names(names: Sequence[str], found: Sequence[FileTensor]) -> dict[str, FileTensor]:
    """The file's inputs by the names that it has for them; see `takers`."""
    signed = {tensor.signature: tensor for tensor in found if tensor.signature}
    return signed if signed.keys() >= set(names) else {tensor.plain_name: tensor for tensor in found}


def chosen(found: tuple[FileTensor, ...], names: tuple[str, ...]) -> tuple[FileTensor, ...]:
    """The outputs with these names, in that order; all where none are named.

    Raises:
        InterfaceError: the file has no output of a name. SourceError: one that is chosen is no tensor.
    """
    by_name = {tensor.plain_name: tensor for tensor in found} | {tensor.name: tensor for tensor in found}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise InterfaceError(
            f"the file has no output {unknown[0]!r}; it has {', '.join(tensor.plain_name for tensor in found)}",
            hint="--output takes names of the file's outputs, the scored one first",
        )
    picked = tuple(by_name[name] for name in names) or found
    odd = next((tensor for tensor in picked if not tensor.datatype), None)
    if odd is None:
        return picked
    usable = [tensor.plain_name for tensor in found if tensor.datatype]
    leave = f"; or leave it out: --output {usable[-1]}" if usable else ""
    raise SourceError(
        f"output {odd.plain_name!r} is no tensor of numbers or text but a sequence or map, which no request can carry; "
        "scikit-learn's classifiers are exported so (ZipMap)",
        subject=odd.plain_name,
        hint=f"convert with options={{'zipmap': False}}{leave}",
    )


def check_scores(picked: tuple[FileTensor, ...], found: tuple[FileTensor, ...]) -> None:
    """Raise InterfaceError where the first output holds classes, as a metric of classes needs their scores."""
    first = picked[0]
    rank = None if first.shape is None else len([size for size in first.shape[1:] if size != 1])
    if first.datatype.startswith(("FP", "BOOL")) or first.scale or rank != 0:
        return
    scores = [
        tensor.plain_name for tensor in found if tensor.datatype.startswith("FP") and len(tensor.shape or ()) == 2
    ]
    raise InterfaceError(
        f"output {first.plain_name!r} ({first.datatype}) holds the class itself, not a score for each class",
        hint=f"choose the scores: --output {scores[0]}" if scores else "--metric exact compares classes",
    )


def fit(data: Dataset, tensors: dict[str, FileTensor], kept: dict[str, str]) -> Dataset:
    """The data in the datatypes that the file takes.

    Args:
        data: its inputs called as in the release.
        tensors: the file's tensor of each input.
        kept: datatypes that applications of an existing model send, by input; the runtime converts them.

    Raises:
        DataError: values that the file's datatype cannot hold.
    """
    arrays: dict[str, Array] = {}
    for name, array in data.inputs.items():
        tensor = tensors[name]
        wanted = kept.get(name) or tensor.datatype
        if tensor.scale and array.dtype.kind == "f":
            wanted = "FP32"  # the integers of the file stand for real values
        elif tensor.scale or not wanted:
            wanted = ""
        arrays[name] = _cast(name, array, wanted) if wanted else array
    return Dataset(arrays, data.y)


def _cast(name: str, array: Array, datatype: str) -> Array:
    from fleet.protocol.tensors import DTYPES, datatype_of

    dtype = DTYPES[datatype]
    if array.dtype == dtype:
        return array
    if "O" in (array.dtype.kind, dtype.kind):
        raise DataError(f"input {name!r} is {datatype_of(array)} in the data; the file takes {datatype}")
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        cast: Array = np.ascontiguousarray(array.astype(dtype))
    refuse_lost(name, array, cast)
    return cast


def _of_onnx(data: bytes) -> Ports:
    import onnx

    graph = onnx.load_from_string(data).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    return Ports(tuple(map(_onnx_tensor, inputs)), tuple(map(_onnx_tensor, graph.output)), named=True)


def _onnx_tensor(value: Any) -> FileTensor:
    if not value.type.HasField("tensor_type"):
        return FileTensor(name=value.name, datatype="", shape=None)
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return FileTensor(name=value.name, datatype=_ONNX.get(kind.elem_type, ""), shape=None)
    sizes = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    axis = kind.shape.dim[0].dim_param if sizes else ""
    return FileTensor(name=value.name, datatype=_ONNX.get(kind.elem_type, ""), shape=sizes, axis=axis)


def _of_litert(data: bytes) -> Ports:
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.Model.GetRootAs(data, 0)
    _check_stateless(model)
    graph: Any = model.Subgraphs(0)
    taken = [int(graph.Inputs(place)) for place in range(graph.InputsLength())]
    signed = _signature(model, set(taken))
    inputs = tuple(structs.replace(_litert_tensor(graph.Tensors(at)), signature=signed.get(at, "")) for at in taken)
    outputs = tuple(_litert_tensor(graph.Tensors(graph.Outputs(place))) for place in range(graph.OutputsLength()))
    names = [tensor.plain_name for tensor in inputs]
    made_up = len(set(names)) < len(names) or any(not name or _NUMBERED.fullmatch(name) for name in names)
    return Ports(inputs, outputs, named=not made_up)


def _signature(model: Any, taken: set[int]) -> dict[int, str]:
    """The names that the main graph's signature gives its inputs, by tensor; none without a signature."""
    for one in map(model.SignatureDefs, range(model.SignatureDefsLength())):
        named = [one.Inputs(place) for place in range(one.InputsLength())]
        names = {int(entry.TensorIndex()): (entry.Name() or b"").decode("utf-8", "replace") for entry in named}
        if one.SubgraphIndex() == 0 and names.keys() == taken:
            return names
    return {}


def _check_stateless(model: Any) -> None:
    """Raise SourceError for a file that remembers: rows of a batch, audits and the self-test would change its answers.

    Such are resource variables (Keras' stateful layers), and the variable tensors of fused LSTM and SVDF operators.
    """
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    codes = [model.OperatorCodes(place) for place in range(model.OperatorCodesLength())]
    kinds = {max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) for code in codes}
    graphs = [model.Subgraphs(place) for place in range(model.SubgraphsLength())]
    kept = [t for graph in graphs for t in map(graph.Tensors, range(graph.TensorsLength())) if t.IsVariable()]
    if kept or kinds & {BuiltinOperator.VAR_HANDLE, BuiltinOperator.READ_VARIABLE, BuiltinOperator.ASSIGN_VARIABLE}:
        what = f"in {(kept[0].Name() or b'').decode('utf-8', 'replace')!r} " if kept else ""
        raise SourceError(
            f"the model keeps a state {what}from one request to the next: its answers depend on who asked before",
            hint="export it with the state as an input and an output, which the application passes on; "
            "unroll a recurrent layer, or convert it without fused operators",
        )


def _litert_tensor(tensor: Any) -> FileTensor:
    sizes = [tensor.ShapeSignature(place) for place in range(tensor.ShapeSignatureLength())]
    sizes = sizes or [tensor.Shape(place) for place in range(tensor.ShapeLength())]
    quantized = tensor.Quantization()
    one = quantized is not None and quantized.ScaleLength() == 1
    scale = float(quantized.Scale(0)) if one else 0.0
    return FileTensor(
        name=(tensor.Name() or b"").decode("utf-8", "replace"),
        datatype=_LITERT.get(tensor.Type(), ""),
        shape=tuple(int(size) for size in sizes),
        scale=scale,
        zero_point=int(quantized.ZeroPoint(0)) if one and quantized.ZeroPointLength() else 0,
    )

"""LiteRT model files of any operators, written as flatbuffers: no converter, any names, shapes and datatypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.support.any_model import Arrays, Shapes

TYPES = {
    "FP16": schema.TensorType.FLOAT16,
    "FP32": schema.TensorType.FLOAT32,
    "FP64": schema.TensorType.FLOAT64,
    "BOOL": schema.TensorType.BOOL,
    "UINT8": schema.TensorType.UINT8,
    "INT8": schema.TensorType.INT8,
    "INT32": schema.TensorType.INT32,
    "INT64": schema.TensorType.INT64,
    "BYTES": schema.TensorType.STRING,
}


class Node(NamedTuple):
    """An operator by its name in `BuiltinOperator`, with the options that it needs."""

    kind: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    options: Any = None


class Names(NamedTuple):
    """The signature's names for the file's inputs and outputs (file -> signature)."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def litert_file(
    nodes: Sequence[Node],
    inputs: Shapes,
    outputs: Shapes,
    *,
    between: Shapes | None = None,
    constants: Arrays | None = None,
    names: Names | None = None,
    variables: Sequence[str] = (),
) -> bytes:
    """A `.tflite` of one graph; a text in a shape is a variable dimension, which is 1 until it is resized. `variables`
    are tensors between that keep their values from one run to the next."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    places: dict[str, int] = {}
    graph.tensors = []

    def add(name: str, kind: str, shape: Sequence[Any], data: bytes | None = None) -> None:
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer = name.encode(), TYPES[kind], 0
        tensor.shape = [size if isinstance(size, int) else 1 for size in shape]
        if tensor.shape != list(shape):
            tensor.shapeSignature = [size if isinstance(size, int) else -1 for size in shape]
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data, np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        places[name] = len(graph.tensors)
        graph.tensors.append(tensor)

    for name, (kind, shape) in {**inputs, **(between or {}), **outputs}.items():
        add(name, kind, shape)
    for name, array in (constants or {}).items():
        kind = next(kind for kind, code in TYPES.items() if code == _code(array))
        add(name, kind, array.shape, array.tobytes())
    for name in variables:
        graph.tensors[places[name]].isVariable = True
    graph.inputs, graph.outputs = [places[name] for name in inputs], [places[name] for name in outputs]
    _operators(model, graph, nodes, places)
    if names is not None:
        model.signatureDefs = [_signature(names, places)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _operators(model: Any, graph: Any, nodes: Sequence[Node], places: Mapping[str, int]) -> None:
    model.operatorCodes, graph.operators = [], []
    for node in nodes:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, node.kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        operator.opcodeIndex = len(model.operatorCodes)
        operator.inputs = [places[name] for name in node.inputs]
        operator.outputs = [places[name] for name in node.outputs]
        if node.options is not None:
            operator.builtinOptions = node.options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(node.options).__name__.removesuffix("T"))
        model.operatorCodes.append(code)
        graph.operators.append(operator)


def _signature(names: Names, places: Mapping[str, int]) -> Any:
    def maps(pairs: Mapping[str, str]) -> list[Any]:
        found = []
        for own, name in pairs.items():
            one = schema.TensorMapT()
            one.name, one.tensorIndex = name.encode(), places[own]
            found.append(one)
        return found

    signature = schema.SignatureDefT()
    signature.inputs, signature.outputs = maps(names.inputs), maps(names.outputs)
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    return signature


def _code(array: np.ndarray) -> int:
    kinds = {"float16": "FP16", "float32": "FP32", "int32": "INT32", "int64": "INT64", "bool": "BOOL"}
    return TYPES[kinds[str(array.dtype)]]

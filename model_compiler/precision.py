"""What a model file computes in, read from the file's own tensor types and operators; nothing is executed."""

from __future__ import annotations

import re
import struct
from typing import Any

from fleet.protocol.manifest import Precision
from model_compiler.errors import SourceError

_NUMBERED = re.compile(r"args?_\d+")  # how litert-torch calls what it was given by place
_ONNX_STATIC = {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm", "QLinearAdd"}
_ONNX_DYNAMIC = {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DequantizeLinear", "DynamicQuantizeMatMul"}


def of_litert(data: bytes) -> Precision:
    """int8 when activations are integers, int8-dynamic when only weights are, else fp32.

    Raises SourceError when the flatbuffer is damaged.
    """
    from ai_edge_litert import schema_py_generated as schema

    weights, activations = set[int](), set[int]()
    try:
        model: Any = schema.Model.GetRootAs(data, 0)
        for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
            for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
                buffer = model.Buffers(tensor.Buffer())
                constant = buffer is not None and (buffer.DataLength() > 0 or buffer.Offset() > 1)
                (weights if constant else activations).add(tensor.Type())
    except (struct.error, IndexError, AttributeError, TypeError, ValueError) as error:
        raise SourceError(f"not a LiteRT model: {error}") from error
    integers = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT16}
    if activations & integers:
        return "int8"
    return "int8-dynamic" if weights & (integers | {schema.TensorType.INT4}) else "fp32"


def litert_ports(data: bytes) -> tuple[tuple[str, ...], int]:
    """The names of the main graph's inputs, and how many outputs it has; `data` has been through `of_litert`.

    What converters add to a name is taken off; no names where a converter numbered them (`args_0`).
    """
    from ai_edge_litert import schema_py_generated as schema

    graph: Any = schema.Model.GetRootAs(data, 0).Subgraphs(0)
    names = [graph.Tensors(graph.Inputs(place)).Name() or b"" for place in range(graph.InputsLength())]
    own = [name.decode("utf-8", "replace").removeprefix("serving_default_").removesuffix(":0") for name in names]
    made_up = len(set(own)) < len(own) or any(not name or _NUMBERED.fullmatch(name) for name in own)
    return () if made_up else tuple(own), graph.OutputsLength()


def of_onnx(data: bytes) -> Precision:
    """int8 when activations are quantized by fixed scales, int8-dynamic by scales made at run time, else fp32.

    `data` has been checked by `sources.load_onnx`.
    """
    import onnx

    operators = {node.op_type for node in onnx.load_from_string(data).graph.node}
    if operators & _ONNX_STATIC:
        return "int8"
    return "int8-dynamic" if operators & _ONNX_DYNAMIC else "fp32"

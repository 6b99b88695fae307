"""Reads the precision of a model file from its own tensor types and operators; nothing is executed."""

from __future__ import annotations

import struct
from typing import Any

from fleet.protocol.manifest import Precision
from model_compiler.errors import SourceError

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


def of_onnx(data: bytes) -> Precision:
    """int8 when activations are quantized by fixed scales, int8-dynamic by scales made at run time, else fp32.

    `data` has been checked by `sources.load_onnx`.
    """
    import onnx

    operators = {node.op_type for node in onnx.load_from_string(data).graph.node}
    if operators & _ONNX_STATIC:
        return "int8"
    return "int8-dynamic" if operators & _ONNX_DYNAMIC else "fp32"

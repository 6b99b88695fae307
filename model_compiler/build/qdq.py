"""Reads an ONNX file's weights by the names of its float form: QDQ keeps a weight as integers beside their scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model_compiler.build.grid import Constant

QUANTIZED = "_quantized"  # what ONNX Runtime's quantizer appends to a tensor's name


def constants(data: bytes) -> dict[str, Constant] | None:
    """A file's constants by name, quantized ones by that of their float form; None where it is not one that is read."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load_from_string(data).graph
        held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        found = {name: Constant(values, None) for name, values in held.items()}
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in held:
                name = node.input[0]
                found[name.removesuffix(QUANTIZED)] = Constant(held[name], _scale(node, held))
    except (DecodeError, ValueError, TypeError, KeyError, IndexError):  # damaged: it fails anywhere
        return None
    return found


def _scale(node: Any, held: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
    """The step of a symmetric grid, broadcast to the integers; None where zero lies elsewhere."""
    values, scale = held[node.input[0]], held[node.input[1]].astype(np.float64)
    if len(node.input) > 2 and np.any(held[node.input[2]]):
        return None
    if scale.size == 1:
        return scale.reshape((1,) * values.ndim)
    along = [1] * values.ndim
    along[next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)] = -1
    return scale.reshape(along)

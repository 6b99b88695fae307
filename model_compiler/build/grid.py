"""New weights in a released LiteRT file, on the quantization grid that it has.

Scales, zero points and layout stay, so that a weight which has not moved far costs a patch nothing. The graph of the
float file that brings the weights must be the one that the released file was made from; only a run of what comes out
tells whether it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FLOAT = np.dtype(np.float32)
EDGE = 1e-3  # of a step beyond one half that a weight must move before its integer changes: rounding falls either way
ONE_SUBGRAPH = 1


@dataclass(frozen=True)
class Constant:
    """A tensor of a file whose value is in the file: a view on its bytes, (…), and its scales, broadcast to it."""

    values: Array
    scale: Array | None


def write(released: bytes, new: bytes) -> bytes | None:
    """The released file with the weights of `new`, each at the nearest place of its own grid.

    Args:
        released: a LiteRT file, quantized or in single precision.
        new: the float file that the same converter makes of the same network with other weights.

    Returns:
        A file of the same length; None where the two are not of one graph, as far as their constants tell, or the
        released one keeps them in a form that is not written here (two to four bits, several subgraphs).
    """
    data = bytearray(released)
    ours, theirs = constants(data), constants(bytearray(new))
    if ours is None or theirs is None:
        return None
    fresh = {name: constant.values for name, constant in theirs.items() if constant.values.dtype == FLOAT}
    if not fresh or any(name not in ours or ours[name].values.shape != values.shape for name, values in fresh.items()):
        return None
    for name, values in fresh.items():
        if not _put(ours[name], values):
            return None
    return bytes(data)


def _put(constant: Constant, values: Array) -> bool:
    """Write real values into a constant's bytes; False where they are neither float32 nor scaled integers."""
    kept = constant.values
    if kept.dtype == FLOAT:
        kept[...] = values
        return True
    if constant.scale is None or kept.dtype.kind != "i":
        return False
    limits = np.iinfo(kept.dtype)
    real = values.astype(np.float64) / constant.scale
    moved = np.abs(real - kept) > 0.5 + EDGE
    # Symmetric: quantizers leave the lowest integer out.
    near = np.clip(np.rint(real), -limits.max, limits.max).astype(kept.dtype)
    kept[...] = np.where(moved, near, kept)
    return True


def constants(data: bytes | bytearray) -> dict[str, Constant] | None:
    """A file's constants by name; None where a name comes twice, or the file is not one that is read here."""
    from ai_edge_litert import schema_py_generated as schema

    found: dict[str, Constant] = {}
    try:
        model = schema.Model.GetRootAs(data, 0)
        if model.SubgraphsLength() != ONE_SUBGRAPH:
            return None
        for name, constant in _read(model, schema):
            if name in found:
                return None
            found[name] = constant
    except (ValueError, TypeError, IndexError, AttributeError, KeyError, struct.error):  # damaged: it fails anywhere
        return None
    return found


def _read(model: Any, schema: Any) -> Iterator[tuple[str, Constant]]:
    kinds: dict[int, np.dtype[Any]] = {
        schema.TensorType.FLOAT32: FLOAT,
        schema.TensorType.INT8: np.dtype(np.int8),
        schema.TensorType.INT16: np.dtype(np.int16),
        schema.TensorType.INT32: np.dtype(np.int32),
        schema.TensorType.INT64: np.dtype(np.int64),
    }
    graph = model.Subgraphs(0)
    for place in range(graph.TensorsLength()):
        tensor = graph.Tensors(place)
        buffer = model.Buffers(tensor.Buffer())
        if not buffer.DataLength():
            continue
        raw, kind = buffer.DataAsNumpy(), kinds.get(tensor.Type())
        shape = tuple(tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
        if kind is None or raw.nbytes != int(np.prod(shape, dtype=int)) * kind.itemsize:
            continue
        yield tensor.Name().decode(), Constant(raw.view(kind).reshape(shape), _scale(tensor, len(shape)))


def _scale(tensor: Any, axes: int) -> Array | None:
    """The step of a symmetric grid, per channel or for all; None without one, or where zero lies elsewhere."""
    found = tensor.Quantization()
    if found is None or not found.ScaleLength():
        return None
    scale: Array = found.ScaleAsNumpy().astype(np.float64)
    zero = found.ZeroPointAsNumpy()
    if np.any(zero) or not np.all(scale > 0):
        return None
    if scale.size == 1:
        return scale.reshape((1,) * axes)
    along = [1] * axes
    along[found.QuantizedDimension()] = -1
    return scale.reshape(along)

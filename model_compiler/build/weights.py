"""A torch module's weights as a released file holds them: how a retrain goes on where nothing else was kept.

A converter need not keep a parameter's name, and moves their axes about. So every single weight is given a number of
its own, and the module is converted: where a number comes out, the weight lies. What the released file has in that
place, multiplied by its scale, is the weight. Weights that the converter computes with (a batch norm's, folded into the
layer before) come out as other numbers, and nothing is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from model_compiler.build import grid, litert, onnx, qdq
from model_compiler.errors import TargetError

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
FIRST = 1 << 23  # from here to twice as much single precision holds every whole number, and no constant lies by chance
MOST = 1 << 23
LITERT = b"TFL3"  # a LiteRT file's identifier, its bytes from the fourth on


def weights_of(
    released: bytes, module: torch.nn.Module, wrapped: torch.nn.Module, example: tuple[torch.Tensor, ...]
) -> dict[str, Array]:
    """The parameters of `module` by name, from a file that was made of it with whatever weights it had.

    Args:
        released: the file, LiteRT or ONNX, quantized or in single precision; any other gives nothing.
        module: the network. Its weights are changed on the way and are as they were in the end.
        wrapped: what is converted: `module`, or one around it that shares its weights.
        example: one sample of each input, by place.

    Returns:
        Parameters in single precision, each of its own shape; none where the file does not hold all of them as they are
        in the module.
    """
    import torch

    own = {name: value for name, value in module.named_parameters() if value.dtype == torch.float32}
    sizes = [value.numel() for value in own.values()]
    if not released or not own or sum(sizes) > MOST or len(own) != len(list(module.parameters())):
        return {}
    convert, read = (litert.convert, grid.constants) if released[4:8] == LITERT else (onnx.export, qdq.constants)
    held = read(released)
    if held is None:
        return {}
    kept = {name: value.detach().clone() for name, value in own.items()}
    try:
        with torch.no_grad():
            for (_, value), end in zip(own.items(), np.cumsum(sizes), strict=True):
                numbers = torch.arange(FIRST + int(end) - value.numel(), FIRST + int(end), dtype=torch.float32)
                value.copy_(numbers.reshape(value.shape))
        numbered = convert(wrapped, example)
    except TargetError:
        return {}
    finally:
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(kept[name])
    flat = _read(held, read(numbered), sum(sizes))
    if flat is None:
        return {}
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return {name: part.reshape(value.shape) for (name, value), part in zip(own.items(), parts, strict=True)}


def _read(released: dict[str, grid.Constant], numbered: dict[str, grid.Constant] | None, count: int) -> Array | None:
    """All weights (count,) in the order of their numbers; None unless each is found, and is the same wherever it is."""
    if numbered is None:
        return None
    flat = np.full(count, np.nan, np.float32)
    for name, constant in numbered.items():
        places = constant.values.astype(np.float64) - FIRST
        if constant.values.dtype != grid.FLOAT or not ((places >= 0) & (places < count)).all():
            continue
        values = _real(released.get(name))
        if values is None or values.shape != places.shape:
            return None
        order = places.astype(np.int64).ravel()
        before = flat[order]
        if not (np.isnan(before) | (before == values.ravel())).all():
            return None
        flat[order] = values.ravel()
    return None if np.isnan(flat).any() else flat


def _real(constant: grid.Constant | None) -> Array | None:
    """A constant in single precision; None without one, or where its integers have no scale."""
    if constant is None:
        return None
    if constant.values.dtype == grid.FLOAT:
        return constant.values
    if constant.scale is None or constant.values.dtype.kind != "i":
        return None
    found: Array = (constant.values * constant.scale).astype(np.float32)
    return found

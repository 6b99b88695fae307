"""Between the manifest's tensors and a model file's own: names, batches, hidden quantization.

Applications see the manifest's tensors (usually FP32, batch first). A full-integer file wants int8
in and gives int8 out, with an affine scale per tensor: real = (q - zero_point) * scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import Struct

from fleet.protocol.manifest import Tensor

MAX_BATCH = 1024  # rows; bounds the memory that one request may take
FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


class Port(Struct, frozen=True, kw_only=True):
    """One tensor of the file: the manifest's name for it, the file's index, and the scale to hide.

    `scale` is 0.0 when values pass through as they are. `wire` is the dtype the application sees.
    """

    name: str
    index: int
    dtype: Any
    wire: Any
    shape: tuple[int, ...]
    dynamic: bool
    scale: float = 0.0
    zero_point: int = 0


def match(specs: tuple[Tensor, ...], details: list[dict[str, Any]], *, kind: str) -> tuple[Port, ...]:
    """Pair the manifest's tensors with a TFLite file's: by name where all names agree, else by order.

    Raises:
        ValueError: the counts differ, or a dtype cannot be converted into what the manifest says.
    """
    if len(specs) != len(details):
        raise ValueError(f"the manifest names {len(specs)} {kind}s, the model file has {len(details)}")
    by_name = {str(detail["name"]): detail for detail in details}
    if all(spec.name in by_name for spec in specs):
        details = [by_name[spec.name] for spec in specs]
    return tuple(_port(spec, detail, kind) for spec, detail in zip(specs, details, strict=True))


def _port(spec: Tensor, detail: dict[str, Any], kind: str) -> Port:
    dtype = np.dtype(detail["dtype"])
    wire = dtype
    scale, zero = 0.0, 0
    if spec.datatype in FLOATS:
        wire = np.dtype(FLOATS[spec.datatype])
        if dtype.kind in "iu":
            scale, zero = detail["quantization"]
            if not scale:
                raise ValueError(f"{kind} {spec.name!r} is {dtype} in the file without a scale, FP in the manifest")
    signature = tuple(int(d) for d in detail.get("shape_signature", detail["shape"]))
    return Port(
        name=spec.name,
        index=int(detail["index"]),
        dtype=dtype,
        wire=wire,
        shape=tuple(int(d) for d in detail["shape"]),
        dynamic=bool(signature) and signature[0] == -1,
        scale=float(scale),
        zero_point=int(zero),
    )


def quantize(values: np.ndarray[Any, Any], port: Port, out: np.ndarray[Any, Any]) -> None:
    """Write `values` into the file's tensor `out` (same shape), rounding to nearest, saturating."""
    if not port.scale:
        out[...] = values
        return
    limits = np.iinfo(port.dtype)
    scaled = np.rint(values * (1.0 / port.scale)) + port.zero_point
    np.clip(scaled, limits.min, limits.max, out=scaled)
    out[...] = scaled


def dequantize(raw: np.ndarray[Any, Any], port: Port) -> np.ndarray[Any, Any]:
    """The application's view of an output tensor (`raw` is already a copy)."""
    if not port.scale:
        return raw if raw.dtype == port.wire else raw.astype(port.wire)
    return ((raw.astype(np.float32) - port.zero_point) * port.scale).astype(port.wire, copy=False)


def unfair(inputs: dict[str, np.ndarray[Any, Any]], specs: tuple[Tensor, ...]) -> str:
    """Why a run that failed on `inputs` says nothing about the model: what no model needs to take. Else empty.

    Where the manifest leaves the batch open: no rows, more than MAX_BATCH, or inputs that disagree about them.
    """
    sizes = {len(inputs[spec.name]) for spec in specs if spec.shape[:1] == (-1,)}
    if len(sizes) > 1:
        return f"the inputs disagree about the batch: {sorted(sizes)}"
    if sizes and not 1 <= max(sizes) <= MAX_BATCH:
        return f"a batch of {max(sizes)} rows; a model takes 1 to {MAX_BATCH}"
    empty = sorted(name for name, array in inputs.items() if not array.size)
    return f"input {empty[0]!r} is empty" if empty else ""


def batch_size(inputs: dict[str, np.ndarray[Any, Any]]) -> int:
    """Rows of a request: the first dimension all inputs share; raises ValueError when they differ."""
    sizes = {array.shape[0] if array.ndim else 1 for array in inputs.values()}
    if len(sizes) != 1:
        raise ValueError(f"the inputs disagree about the batch: {sorted(sizes)}")
    return sizes.pop()

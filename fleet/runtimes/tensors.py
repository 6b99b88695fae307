"""Between the manifest's tensors and a model file's own: names, datatypes, hidden quantization.

Applications see the manifest's tensors. A full-integer file wants int8 in and gives int8 out, with an affine scale
per tensor: real = (q - zero_point) * scale. A file of another float or integer width is converted. BYTES are UTF-8
text to a model: ONNX has strings, no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from fleet.protocol.finite import is_finite, where_not
from fleet.protocol.manifest import Tensor
from fleet.protocol.tensors import DTYPES, AnyArray, datatype_of
from fleet.runtimes.errors import InputError


class FileTensor(Struct, frozen=True, kw_only=True):
    """One tensor as the file has it; -1 is a variable dimension.

    `datatype` is the protocol's name, or empty for what the protocol has no word for. `shape` is None where the file
    does not say. `index` is the runtime's own number of it, `scale` 0.0 without quantization. `axis` is the name of
    the first dimension, where the file names it. `signature` is what the file's signature calls it, where it has one.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None
    index: int = 0
    scale: float = 0.0
    zero_point: int = 0
    axis: str = ""
    signature: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of its values."""
        return DTYPES[self.datatype]

    @property
    def plain_name(self) -> str:
        """Without what TensorFlow's converter wraps around it: `serving_default_x:0` is `x`."""
        return self.name.removeprefix("serving_default_").removesuffix(":0")


class Port(Struct, frozen=True, kw_only=True):
    """A tensor of the manifest and the file's that it goes to. `scale` is 0.0 when no quantization is hidden.

    `added`: an output whose file answers one request without a batch axis, where the manifest has one.
    """

    spec: Tensor
    file: FileTensor
    wire: np.dtype[Any]
    dtype: np.dtype[Any]
    scale: float = 0.0
    zero_point: int = 0
    added: bool = False

    @property
    def name(self) -> str:
        """The manifest's name."""
        return self.spec.name


def pair(
    specs: Sequence[Tensor],
    found: Sequence[FileTensor],
    *,
    kind: str,
    strict: bool,
    places: Mapping[str, int] | None = None,
) -> tuple[Port, ...]:
    """The manifest's tensors with the file's, in the manifest's order.

    By the recorded `places`. Without them by the names of the file's signature, else of its tensors. Where only one is
    on each side there is nothing to confuse, whatever it is called. A file whose names are not the manifest's is paired
    by order unless `strict`: that is for files whose self-test proves the pairing.

    Args:
        kind: `input` or `output`, for messages. Outputs that the manifest does not name are left alone.
        strict: names, shapes and the number of dimensions must fit as well.
        places: where in the file each of the manifest's tensors is, by its name.

    Raises:
        ValueError: they do not fit; the message has both sides.
    """
    by_name = _by_name(specs, found) if places is None else _by_place(specs, found, places, kind)
    named = all(spec.name in by_name for spec in specs) and len({spec.name for spec in specs}) == len(specs)
    if len(specs) != len(found) and not (named and kind == "output"):
        raise ValueError(f"the manifest names {len(specs)} {kind}s{_both(specs, found)}")
    if named:
        chosen = [by_name[spec.name] for spec in specs]
    elif len(specs) > 1 and strict:
        raise ValueError(f"the manifest's {kind}s are not the model file's{_both(specs, found)}")
    else:
        chosen = list(found)
    if len({tensor.index for tensor in chosen}) < len(chosen):
        raise ValueError(f"two {kind}s of the manifest are one of the model file's{_both(specs, found)}")
    if strict or places is not None:
        _check_shapes(specs, chosen, kind)
    return tuple(_port(spec, tensor, kind) for spec, tensor in zip(specs, chosen, strict=True))


def _by_name(specs: Sequence[Tensor], found: Sequence[FileTensor]) -> dict[str, FileTensor]:
    """The signature's names where they are the manifest's; they are what the file was made to be called by."""
    signed = {tensor.signature: tensor for tensor in found if tensor.signature}
    if all(spec.name in signed for spec in specs):
        return signed
    return {tensor.plain_name: tensor for tensor in found} | {tensor.name: tensor for tensor in found}


def _by_place(
    specs: Sequence[Tensor], found: Sequence[FileTensor], places: Mapping[str, int], kind: str
) -> dict[str, FileTensor]:
    if places.keys() != {spec.name for spec in specs} or not all(0 <= at < len(found) for at in places.values()):
        raise ValueError(f"the recorded places of the {kind}s do not fit{_both(specs, found)}")
    return {name: found[at] for name, at in places.items()}


def _both(specs: Sequence[Tensor], found: Sequence[FileTensor]) -> str:
    ours, theirs = ", ".join(spec.name for spec in specs), ", ".join(tensor.name for tensor in found)
    return f" ({ours}), the model file has {len(found)} ({theirs})"


def _check_shapes(specs: Sequence[Tensor], found: Sequence[FileTensor], kind: str) -> None:
    for spec, tensor in zip(specs, found, strict=True):
        shape = tensor.shape
        if shape is None or (kind == "output" and lacks_rows(spec.shape, shape)):
            continue
        if len(shape) != len(spec.shape) or any(
            have != -1 and want not in (-1, have) for want, have in zip(spec.shape, shape, strict=True)
        ):
            raise ValueError(
                f"{kind} {spec.name!r} has shape {list(spec.shape)} in the manifest, {list(shape)} in the model file"
            )


def _port(spec: Tensor, tensor: FileTensor, kind: str) -> Port:
    if spec.datatype not in DTYPES:
        raise ValueError(f"{kind} {spec.name!r} has the unknown datatype {spec.datatype!r} in the manifest")
    wire = DTYPES[spec.datatype]
    dtype = DTYPES.get(tensor.datatype)
    into, out_of = (wire, dtype) if kind == "input" else (dtype, wire)
    quantized = dtype is not None and dtype.kind in "iu" and wire.kind == "f" and tensor.scale != 0.0
    if dtype is None or not (quantized or _convertible(into, out_of)):
        theirs = tensor.datatype or "no tensor of numbers or text"
        scale = " without a scale" if dtype is not None and dtype.kind in "iu" and wire.kind == "f" else ""
        raise ValueError(f"{kind} {spec.name!r} is {spec.datatype} in the manifest, {theirs} in the file{scale}")
    hidden = (tensor.scale, tensor.zero_point) if quantized else (0.0, 0)
    added = kind == "output" and lacks_rows(spec.shape, tensor.shape)
    return Port(spec=spec, file=tensor, wire=wire, dtype=dtype, scale=hidden[0], zero_point=hidden[1], added=added)


def lacks_rows(wanted: Sequence[int], own: Sequence[int] | None) -> bool:
    """Tell whether a file's output (k, …) is one row of the manifest's (1 or -1, k, …), with a size that it leaves
    open."""
    return own is not None and -1 in own and wanted[:1] in ((1,), (-1,)) and len(own) + 1 == len(wanted)


def _convertible(source: np.dtype[Any] | None, target: np.dtype[Any] | None) -> bool:
    """Return whether values keep their meaning: the same kind, or a number that a wider kind holds."""
    if source is None or target is None:
        return False
    order = {"b": 0, "u": 1, "i": 1, "f": 2}
    if "O" in (source.kind, target.kind):
        return source == target
    return order[source.kind] <= order[target.kind]


def into_file(values: AnyArray, port: Port) -> AnyArray:
    """The values as the file wants them; the array itself where nothing is to do.

    Raises:
        InputError: a value that the file's datatype cannot hold.
    """
    if port.scale:
        out = np.empty(values.shape, port.dtype)
        quantize_into(values, port, out)
        return out
    if port.dtype.kind == "O":
        return _as_text(values, port.name)
    if values.dtype == port.dtype:
        return values
    with np.errstate(over="ignore"):
        cast: AnyArray = values.astype(port.dtype)
    if port.dtype.kind in "iu" and not np.array_equal(cast, values):
        raise InputError(f"input {port.name!r} has values that {datatype_of(cast)} cannot hold", subject=port.name)
    if port.spec.finite and port.dtype.kind == "f" and not is_finite(cast):
        raise InputError(f"input {port.name!r} is {where_not(cast)} as {datatype_of(cast)}", subject=port.name)
    return cast


def quantize_into(values: AnyArray, port: Port, out: AnyArray) -> None:
    """Write real values into an integer tensor: rounding to nearest, saturating.

    Args:
        values: of any shape.
        port: has the scale, the zero point and the datatype.
        out: of the same shape.

    Raises:
        InputError: a value is NaN, which no integer stands for.
    """
    if not port.spec.finite and np.isnan(values).any():
        raise InputError(f"input {port.name!r} is NaN, for which an integer variant has no value", subject=port.name)
    limits = np.iinfo(port.dtype)
    scaled = np.rint(values * (1.0 / port.scale)) + port.zero_point
    np.clip(scaled, limits.min, limits.max, out=scaled)
    out[...] = scaled


def scalar_of(values: AnyArray, port: Port) -> AnyArray:
    """A value without dimensions as the file takes it, quantized or converted."""
    if not port.scale:
        return np.asarray(into_file(values, port))
    out = np.empty(1, port.dtype)
    quantize_into(values.reshape(1), port, out)
    return out.reshape(())


def real_of(integers: AnyArray, scale: float, zero_point: int) -> AnyArray:
    """The real values, float32, that quantized integers stand for."""
    values: AnyArray = (integers.astype(np.float32) - zero_point) * scale
    return values


def out_of_file(raw: AnyArray, port: Port) -> AnyArray:
    """The application's view of an output; `raw` is already its own."""
    if port.added:
        raw = np.asarray(raw)[None]
    if port.scale:
        return real_of(raw, port.scale, port.zero_point).astype(port.wire, copy=False)
    if port.wire.kind == "O":
        return _as_bytes(raw)
    return raw if raw.dtype == port.wire else raw.astype(port.wire)


def _as_text(values: AnyArray, name: str) -> AnyArray:
    flat: list[str] = []
    for place, item in enumerate(values.ravel().tolist()):
        try:
            flat.append(item if isinstance(item, str) else bytes(item).decode())
        except UnicodeDecodeError as error:
            raise InputError(
                f"input {name!r}: element {place} is not UTF-8 text, which is what the model takes", subject=name
            ) from error
    return _objects(flat, values.shape)


def _as_bytes(values: AnyArray) -> AnyArray:
    items = np.asarray(values).ravel().tolist()
    return _objects([item if isinstance(item, bytes) else str(item).encode() for item in items], np.shape(values))


def _objects(items: list[Any], shape: tuple[int, ...]) -> AnyArray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)

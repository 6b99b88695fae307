"""Tensors as bytes and as JSON, by the Open Inference Protocol's datatypes.

Arrays that come out of bytes are read-only views wherever the bytes allow it; nothing is copied
that need not be. A tensor of datatype BYTES is an object array of `bytes`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.protocol.messages import Array

AnyArray = npt.NDArray[Any]
MAX_TEXTS = 100_000  # elements of a BYTES tensor: each is an object of its own, at 0.3 µs and more
MAX_DIMENSIONS = 32  # numpy 1.26's own limit
MAX_SPAN = 1 << 48  # elements of an empty tensor beside its dimension of size 0; numpy counts their bytes in 63 bits

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dtype_of(datatype: str) -> np.dtype[Any]:
    """The numpy dtype of a datatype name; raises MalformedError for an unknown one."""
    try:
        return DTYPES[datatype]
    except KeyError:
        known = ", ".join(DTYPES)
        raise MalformedError(
            f"datatype {datatype!r} is not known", subject="datatype", hint=f"use one of {known}"
        ) from None


def datatype_of(array: AnyArray) -> str:
    """The datatype name of an array; raises MalformedError for a dtype the protocol lacks."""
    name = _NAMES.get(array.dtype) or _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise MalformedError(f"dtype {array.dtype} has no Open Inference Protocol datatype", subject="datatype")
    return name


def element_count(shape: Sequence[int], subject: str) -> int:
    """Return the number of elements of a concrete shape, in Python integers so that it cannot overflow.

    Raises:
        MalformedError: the shape is not concrete, or larger than any memory.
    """
    if len(shape) > MAX_DIMENSIONS or (shape and min(shape) < 0):
        raise MalformedError(f"tensor {subject!r}: shape {list(shape)} is not a concrete shape", subject=subject)
    elements = math.prod(shape)
    if not elements and math.prod(filter(None, shape)) > MAX_SPAN:
        raise MalformedError(f"tensor {subject!r}: shape {list(shape)} is larger than any memory", subject=subject)
    return elements


def from_bytes(data: bytes | memoryview, datatype: str, shape: Sequence[int], name: str) -> AnyArray:
    """Read an array over `data`: little-endian, row-major; BYTES as uint32 length and bytes per element.

    Args:
        data: of the whole tensor.
        datatype: the protocol's word for it.
        shape: concrete.
        name: the tensor's, for messages.

    Raises:
        MalformedError: the size does not fit the shape, or the datatype is unknown.
        TooLargeError: more than MAX_TEXTS elements of BYTES.
    """
    dtype = dtype_of(datatype)
    elements = element_count(shape, name)
    if datatype == "BYTES":
        if elements > MAX_TEXTS:
            raise TooLargeError(f"tensor {name!r} has {elements} BYTES elements, at most {MAX_TEXTS} are read")
        return _split_bytes(data, elements, name).reshape(shape)
    if elements * dtype.itemsize != len(data):
        raise MalformedError(
            f"tensor {name!r}: {len(data)} bytes do not fill {datatype} {list(shape)}, "
            f"which takes {elements * dtype.itemsize}",
            subject=name,
        )
    if datatype == "BOOL":  # any byte but zero is true, whatever the sender wrote
        return np.frombuffer(data, np.uint8).astype(np.bool_).reshape(shape)
    array: AnyArray = np.frombuffer(data, dtype).reshape(shape)
    return array if array.flags.aligned else np.copy(array)  # runtimes may refuse unaligned memory


def to_bytes(array: AnyArray) -> bytes:
    """The array's bytes: little-endian, row-major."""
    if array.dtype.kind == "O":
        items = [_as_bytes(item) for item in array.ravel()]
        return b"".join(struct.pack("<I", len(item)) + item for item in items)
    if array.dtype in _NAMES:  # little-endian as it is
        return array.tobytes()
    return array.astype(DTYPES[datatype_of(array)]).tobytes()


def from_json(data: Any, datatype: str, shape: Sequence[int], name: str) -> AnyArray:
    """Read an array from nested or flat JSON numbers, row-major.

    Null reads as NaN in FP16, FP32 and FP64, since JSON has no NaN and no infinity, and is refused in all others.
    Whether the model takes NaN is not looked at here (`inputs.check_arrays`).

    Args:
        data: decoded JSON.
        datatype: the protocol's word for it.
        shape: concrete.
        name: the tensor's, for messages.

    Raises:
        MalformedError: wrong kind of values, out of the datatype's range, ragged, or a size that does not fit.
    """
    dtype = dtype_of(datatype)
    elements = element_count(shape, name)
    array = _bytes_array(data, name) if datatype == "BYTES" else _numbers(data, dtype, datatype, name)
    if array.size != elements:
        raise MalformedError(
            f"tensor {name!r}: {array.size} values do not fill shape {list(shape)}, which takes {elements}",
            subject=name,
        )
    return array.reshape(shape)


def to_json(array: AnyArray) -> list[Any]:
    """Return the array's elements, flat and row-major, as JSON values.

    Raises:
        MalformedError: a BYTES element is not UTF-8.
    """
    if array.dtype.kind == "O":
        try:
            return [_as_bytes(item).decode() for item in array.ravel()]
        except UnicodeDecodeError as error:
            raise MalformedError("a BYTES element is not UTF-8", hint="ask for binary output") from error
    flat: list[Any] = array.ravel().tolist()
    return flat


def to_array(name: str, array: AnyArray) -> Array:
    """An array as the message that samples and self-test vectors carry."""
    shape = tuple(int(size) for size in array.shape)
    return Array(name=name, datatype=datatype_of(array), shape=shape, data=to_bytes(array))


def from_array(array: Array) -> AnyArray:
    """The array in a message; raises MalformedError when size, shape and datatype disagree."""
    return from_bytes(array.data, array.datatype, array.shape, array.name)


def _numbers(data: Any, dtype: np.dtype[Any], datatype: str, name: str) -> AnyArray:
    try:
        array = np.array(data)
        if array.size == 0:
            return array.astype(dtype)
        if dtype.kind == "f" and array.dtype.kind == "O":
            array = _with_gaps(array, datatype)
        if dtype.kind in "iu" and array.dtype.kind not in "iu":
            array = _integers(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise MalformedError(f"tensor {name!r}: {error}", subject=name) from error
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if array.dtype.kind not in allowed:
        raise MalformedError(f"tensor {name!r}: data has values that are not {datatype}", subject=name)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise MalformedError(f"tensor {name!r}: a value lies outside {datatype}'s range", subject=name)
    with np.errstate(over="ignore"):  # too large for FP16 or FP32 reads as infinity, as IEEE 754 rounds
        return array.astype(dtype, copy=False)


def _with_gaps(array: AnyArray, datatype: str) -> AnyArray:
    """Numbers with NaN where there is null."""
    kinds = {type(value) for value in array.flat}
    if not kinds <= {int, float, type(None)}:
        raise TypeError(f"data has values that are not {datatype}")
    return array.astype(np.float64)


def _integers(data: Any) -> AnyArray:
    # 64-bit values above int64 make numpy guess float64; an object array keeps every digit.
    exact = np.array(data, dtype=object)
    wrong = next((value for value in exact.flat if type(value) is not int), 0)
    if wrong is None:
        raise TypeError("null stands for NaN in FP tensors only")
    if type(wrong) is not int:
        raise TypeError("data has values that are not integers")
    if min(exact.flat) < 0:
        return exact.astype(np.int64)
    return exact.astype(np.uint64)


def _bytes_array(data: Any, name: str) -> AnyArray:
    flat: list[Any] = []
    pending = [data]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item))
        elif isinstance(item, str):
            flat.append(item.encode())
        else:
            raise MalformedError(f"tensor {name!r}: BYTES data must be strings", subject=name)
    return _objects(flat)


def _split_bytes(data: bytes | memoryview, elements: int, name: str) -> AnyArray:
    items: list[bytes] = []
    at, view = 0, memoryview(data)
    while at + 4 <= len(view) and len(items) < elements:
        (size,) = struct.unpack_from("<I", view, at)
        if size > len(view) - at - 4:
            break
        items.append(bytes(view[at + 4 : at + 4 + size]))
        at += 4 + size
    if len(items) != elements or at != len(view):
        raise MalformedError(f"tensor {name!r}: the bytes do not hold {elements} elements", subject=name)
    return _objects(items)


def _objects(items: list[bytes]) -> AnyArray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def _as_bytes(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    raise MalformedError(f"an object array holds {type(item).__name__}, BYTES needs bytes or text")

"""Reads the JSON of an inference message, and finds the bytes of its tensors behind it; see `oip`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

import msgspec
import numpy as np
from msgspec import UNSET

from fleet.protocol.codec import DECODE_ERRORS
from fleet.protocol.errors import MalformedError
from fleet.protocol.oip_messages import (
    ReadOutput,
    ReadRequest,
    ReadTensor,
)
from fleet.protocol.tensors import (
    DTYPES,
    MAX_DIMENSIONS,
    AnyArray,
    from_bytes,
    from_json,
)
from fleet.protocol.top_classes import class_count

KEPT_HEADS, KEPT_HEAD = 64, 1024  # JSON before binary tensors that is remembered, and the bytes it may have
ALL: Final = frozenset(("*",))  # `InferRequest.binary_outputs`: every output


class TensorValue(NamedTuple):
    """A named array; the datatype follows from its dtype. An empty name marks a raw body."""

    name: str
    array: AnyArray


_NO_NUMBER = re.compile(rb"[\[:,]\s*-?(NaN|Infinity|nan|inf)\b")  # as Python's json writes them
_REQUEST = msgspec.json.Decoder(ReadRequest)


class TensorPlace(NamedTuple):
    """The place of a tensor of numbers behind the JSON."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    values: int
    at: int


class ParsedRequest(NamedTuple):
    """The content of a request's JSON; of its tensors, all but the bytes behind it.

    `places` are those of its tensors where all are plain numbers behind it, in `size` bytes; None where not.
    """

    id: str
    parameters: dict[str, Any]
    inputs: list[ReadTensor]
    outputs: tuple[str, ...]
    binary_outputs: frozenset[str]
    classification: dict[str, int]
    places: tuple[TensorPlace, ...] | None
    size: int


def said_in(head: bytes | memoryview) -> ParsedRequest:
    request: ReadRequest = parsed(_REQUEST, head)
    if not request.inputs:
        bad("the request has no inputs")
    parameters = request.parameters or {}
    asked = asked_outputs(parameters, request.outputs or ())
    return ParsedRequest(request.id or "", parameters, request.inputs, *asked, *_places(request.inputs))


# What is said where a client writes NaN or Infinity into its JSON, as Python's does.
NO_NUMBERS = (
    "JSON has no NaN or infinity: null stands for NaN where the model takes it; infinity goes in binary tensors"
)


def _places(tensors: list[ReadTensor]) -> tuple[tuple[TensorPlace, ...] | None, int]:
    places, at = [], 0
    for tensor in tensors:
        dtype, size = DTYPES.get(tensor.datatype), (tensor.parameters or {}).get("binary_data_size")
        plain = dtype is not None and dtype.kind in "iuf" and tensor.data is UNSET
        if dtype is None or not plain or not min(tensor.shape, default=0) >= 0 or len(tensor.shape) > MAX_DIMENSIONS:
            return None, 0
        values = math.prod(tensor.shape)
        if type(size) is not int or size != values * dtype.itemsize or not size:
            return None, 0
        places.append(TensorPlace(tensor.name, dtype, tensor.shape, values, at))
        at += size
    return tuple(places), at


def views_of(places: Sequence[TensorPlace], tail: memoryview) -> tuple[TensorValue, ...]:
    found = []
    for name, dtype, shape, values, at in places:
        array = np.frombuffer(tail, dtype, values, at).reshape(shape)
        found.append(TensorValue(name, array if array.flags.aligned else np.copy(array)))
    return tuple(found)


# The requests of a client differ in the bytes behind their JSON, which is the same again and again.
said_again = lru_cache(maxsize=KEPT_HEADS)(said_in)


def parsed(decoder: msgspec.json.Decoder[Any], head: bytes | memoryview) -> Any:
    try:
        return decoder.decode(head)
    except DECODE_ERRORS as error:
        hint = NO_NUMBERS if _NO_NUMBER.search(head) else ""
        raise MalformedError(f"not an inference message: {error}", subject="body", hint=hint) from error


def asked_outputs(
    parameters: dict[str, Any], outputs: Sequence[ReadOutput]
) -> tuple[tuple[str, ...], frozenset[str], dict[str, int]]:
    """Names of the outputs that are asked for, those of them in binary, and of which the best classes, how many.

    Args:
        parameters: the request's, of which `binary_data_output` is taken away.
    """
    default = parameters.pop("binary_data_output", False) is True
    if not outputs:
        return (), ALL if default else frozenset(), {}
    chosen, classification = [], {}
    for output in outputs:
        said = output.parameters or {}
        count = class_count(said, output.name)
        if count:
            classification[output.name] = count
        if "shared_memory_region" in said:
            bad(f"output {output.name!r}: shared memory is not supported")
        if said.get("binary_data", default) is True:
            chosen.append(output.name)
    return tuple(output.name for output in outputs), frozenset(chosen), classification


def read_tensors(tensors: list[ReadTensor], tail: memoryview) -> tuple[TensorValue, ...]:
    values, at = [], 0
    for tensor in tensors:
        size = tensor.parameters.get("binary_data_size") if tensor.parameters else None
        absent = tensor.data is UNSET or tensor.data is None
        if size is None:
            if absent:
                shared = "shared_memory_region" in (tensor.parameters or {})
                why = "shared memory is not supported" if shared else "it has neither data nor binary_data_size"
                bad(f"tensor {tensor.name!r}: {why}")
            array = from_json(tensor.data, tensor.datatype, tensor.shape, tensor.name)
        else:
            if type(size) is not int or not 0 <= size <= len(tail) - at or not absent:
                bad(f"tensor {tensor.name!r}: binary_data_size {size!r} does not fit, {len(tail) - at} bytes are left")
            array = from_bytes(tail[at : at + size], tensor.datatype, tensor.shape, tensor.name)
            at += size
        values.append(TensorValue(tensor.name, array))
    if at != len(tail):
        bad(f"{len(tail) - at} bytes follow the last tensor")
    return tuple(values)


def bad(message: str, *, hint: str = "") -> NoReturn:
    raise MalformedError(message, subject="inference", hint=hint)

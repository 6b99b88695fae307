"""The Open Inference Protocol v2 over HTTP: JSON, and the binary tensor extension.

Bodies become arrays and back; routes, gzip headers and status codes belong to the servers. A body
is JSON, optionally followed by the raw bytes of the tensors whose `parameters` carry
`binary_data_size`, in order; the header `Inference-Header-Content-Length` says where the JSON ends.
The header value 0 means that the whole body is the raw data of a model's single input.

Source: https://github.com/kserve/open-inference-protocol (REST) and Triton's binary tensor extension.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

import msgspec
import numpy as np
from msgspec import UNSET, Struct, field

from fleet.protocol.codec import DECODE_ERRORS
from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.protocol.inputs import check_arrays, names_of, raw_input, refuse
from fleet.protocol.oip_messages import OipOutput as OipOutput
from fleet.protocol.oip_messages import OipRequest as OipRequest
from fleet.protocol.oip_messages import OipResponse as OipResponse
from fleet.protocol.oip_messages import OipTensor as OipTensor
from fleet.protocol.oip_messages import ReadOutput, ReadRequest, ReadResponse, ReadTensor
from fleet.protocol.oip_messages import described as described
from fleet.protocol.oip_messages import model_metadata as model_metadata
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import DTYPES as DTYPES
from fleet.protocol.tensors import MAX_DIMENSIONS, AnyArray, datatype_of, from_bytes, from_json, to_bytes, to_json
from fleet.protocol.top_classes import class_count, in_words

HEADER = "inference-header-content-length"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")
LIMIT = 64 << 20  # bytes of one body
KEPT_HEADS, KEPT_HEAD = 64, 1024  # JSON before binary tensors that is remembered, and the bytes it may have
ALL: Final = frozenset(("*",))  # `InferRequest.binary_outputs`: every output


class TensorValue(NamedTuple):
    """A named array; the datatype follows from its dtype. An empty name marks a raw body."""

    name: str
    array: AnyArray


class InferRequest(Struct, frozen=True, kw_only=True):
    """What an application asks. `outputs` are the names it wants (empty: all of them).

    `classification`: of which outputs it wants the best classes by name, and how many.
    """

    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorValue, ...]
    outputs: tuple[str, ...] = ()
    binary_outputs: frozenset[str] = frozenset()
    classification: dict[str, int] = field(default_factory=dict)

    def wants_binary(self, output: str) -> bool:
        """Whether `output` is to be answered in binary."""
        return "*" in self.binary_outputs or output in self.binary_outputs


class InferResponse(Struct, frozen=True, kw_only=True):
    """The answer. `parameters` hold strings, numbers and booleans only; `labels` are the class names by output."""

    model_name: str
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[TensorValue, ...]
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)


_NO_NUMBER = re.compile(rb"[\[:,]\s*-?(NaN|Infinity|nan|inf)\b")  # as Python's json writes them
_REQUEST = msgspec.json.Decoder(ReadRequest)
_RESPONSE = msgspec.json.Decoder(ReadResponse)
_ENCODER = msgspec.json.Encoder()


def parse_header(value: str | None) -> int | None:
    """The number in an `Inference-Header-Content-Length` header; None when the header is absent."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 12):
        _bad(f"header {HEADER} is {value[:32]!r}, it must be a number of bytes")
    return int(value)


def decompress(body: bytes, encoding: str, *, limit: int = LIMIT) -> bytes:
    """A body by its Content-Encoding (`gzip`, `deflate`, `identity` or empty), at most `limit` bytes.

    Raises:
        TooLargeError: it inflates to more. MalformedError: unknown encoding or broken data.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        _bad(f"content encoding {encoding!r} is not supported", hint="use gzip, deflate or none")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip and zlib headers are told apart
    try:
        data = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedError(f"the {encoding} body does not inflate: {error}", subject="body") from error
    if len(data) > limit:
        raise TooLargeError(f"the body inflates to more than {limit} bytes", subject="body")
    if not inflater.eof or inflater.unused_data:
        _bad(f"the {encoding} body is cut short or has bytes after its end")
    return data


def decode_request(body: bytes, header_length: int | None, *, limit: int = LIMIT) -> InferRequest:
    """Decode an inference request.

    Args:
        body: the HTTP body, already decompressed.
        header_length: `parse_header` of the request's header.

    Raises:
        TooLargeError: more than `limit` bytes. MalformedError: anything else that is wrong.
    """
    if len(body) > limit:
        raise TooLargeError(f"the request has {len(body)} bytes, at most {limit} are allowed", subject="body")
    if header_length == 0:
        raw = TensorValue("", np.frombuffer(body, np.uint8))
        return InferRequest(inputs=(raw,), binary_outputs=ALL)
    head, tail = _split(body, header_length)
    said = _said(head) if header_length is None or header_length > KEPT_HEAD else _said_again(bytes(head))
    plain = said.places is not None and said.size == len(tail)
    return InferRequest(
        id=said.id,
        parameters=said.parameters.copy(),
        inputs=_views(said.places or (), tail) if plain else _read_tensors(said.inputs, tail, nulls=False),
        outputs=said.outputs,
        binary_outputs=said.binary_outputs,
        classification=said.classification,
    )


def encode_request(request: InferRequest, *, binary: bool = True) -> tuple[bytes, int | None]:
    """Encode a request; with `binary` the inputs follow the JSON as raw bytes.

    Returns:
        The body, and the value for the `HEADER` header (None: no header).
    """
    chosen = ALL if binary else frozenset[str]()
    tensors, tails = _write_tensors(request.inputs, chosen)
    parameters = dict(request.parameters)
    if "*" in request.binary_outputs:
        parameters["binary_data_output"] = True
    outputs = [OipOutput(name, _binary_mark(request, name)) for name in request.outputs]
    head = _ENCODER.encode(OipRequest(tensors, request.id, parameters, outputs))
    return _join(head, tails)


def encode_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """Encode the answer to `request`: the outputs it asked for, each in the form it asked for.

    NaN and infinities become null in JSON; binary keeps them.

    Raises:
        MalformedError: the request asks for an output that the model does not have, or for the classes of one that
            has none. TooLargeError: for more of them than are written.
    """
    outputs = chosen_outputs(response, request)
    tensors, tails = _write_tensors(outputs, request.binary_outputs)
    head = _ENCODER.encode(
        OipResponse(response.model_name, tensors, response.model_version, response.id, response.parameters)
    )
    return _join(head, tails)


def chosen_outputs(response: InferResponse, request: InferRequest) -> Sequence[TensorValue]:
    """The outputs that `request` asks for, as numbers or in words; raises as `encode_response`."""
    outputs: Sequence[TensorValue] = response.outputs
    if request.outputs:
        known = {value.name: value for value in response.outputs}
        missing = [name for name in request.outputs if name not in known]
        if missing:
            _bad(f"the model has no output {missing[0]!r}", hint=f"its outputs are {', '.join(known)}")
        outputs = [known[name] for name in request.outputs]
    if request.classification:
        wanted, labels = request.classification, response.labels
        outputs = [TensorValue(n, in_words(array, wanted.get(n, 0), labels, n)) for n, array in outputs]
    return outputs


def decode_response(body: bytes, header_length: int | None, *, limit: int = LIMIT) -> InferResponse:
    """Decode an answer; raises like `decode_request`."""
    if len(body) > limit:
        raise TooLargeError(f"the response has {len(body)} bytes, at most {limit} are allowed", subject="body")
    head, tail = _split(body, header_length)
    response: ReadResponse = _parse(_RESPONSE, head)
    return InferResponse(
        model_name=response.model_name or "",
        model_version=response.model_version or "",
        id=response.id or "",
        parameters=response.parameters or {},
        outputs=_read_tensors(response.outputs, tail, nulls=True),
    )


def check_request(
    request: InferRequest, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> dict[str, AnyArray]:
    """The inputs by name, of a request that a model with these inputs and outputs takes.

    Raises:
        RefusalError: as `check_inputs`, or it asks for an output that the model does not have.
    """
    found = check_inputs(request.inputs, inputs)
    if not request.outputs:
        return found
    names = {spec.name for spec in outputs}
    missing = [name for name in request.outputs if name not in names]
    if missing:
        refuse("output", f"the model has no output {missing[0]!r}", hint=f"its outputs are {names_of(outputs)}")
    return found


def check_inputs(values: Sequence[TensorValue], specs: tuple[Tensor, ...]) -> dict[str, AnyArray]:
    """The inputs by name, checked against the manifest's names, datatypes and shapes.

    A raw body (one value without a name) takes name, datatype and shape from the single input.

    Raises:
        RefusalError: an input is missing, unknown, doubled, of another datatype or shape, or holds NaN or
            infinity where the manifest wants finite numbers; the message names the first such value's place.
    """
    if len(values) == 1 and not values[0].name:
        found = raw_input(values[0].array, specs)
    else:
        found = {value.name: value.array for value in values}
        if len(found) != len(values):
            names = [value.name for value in values]
            refuse("name", f"two inputs are called {next(n for n in names if names.count(n) > 1)!r}")
    check_arrays(found, specs)
    return found


def _split(body: bytes, header_length: int | None) -> tuple[bytes | memoryview, memoryview]:
    view = memoryview(body)
    if header_length is None:
        return body, view[:0]
    if not 0 < header_length <= len(body):
        _bad(f"header {HEADER} is {header_length}, the body has {len(body)} bytes")
    return view[:header_length], view[header_length:]


class _Place(NamedTuple):
    """Where behind the JSON a tensor of numbers is."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    values: int
    at: int


class _Said(NamedTuple):
    """What the JSON of a request says; of its tensors, all but the bytes behind it.

    `places` are those of its tensors where all are plain numbers behind it, in `size` bytes; None where not.
    """

    id: str
    parameters: dict[str, Any]
    inputs: list[ReadTensor]
    outputs: tuple[str, ...]
    binary_outputs: frozenset[str]
    classification: dict[str, int]
    places: tuple[_Place, ...] | None
    size: int


def _said(head: bytes | memoryview) -> _Said:
    request: ReadRequest = _parse(_REQUEST, head)
    if not request.inputs:
        _bad("the request has no inputs")
    parameters = request.parameters or {}
    asked = asked_outputs(parameters, request.outputs or ())
    return _Said(request.id or "", parameters, request.inputs, *asked, *_places(request.inputs))


def _places(tensors: list[ReadTensor]) -> tuple[tuple[_Place, ...] | None, int]:
    places, at = [], 0
    for tensor in tensors:
        dtype, size = DTYPES.get(tensor.datatype), (tensor.parameters or {}).get("binary_data_size")
        plain = dtype is not None and dtype.kind in "iuf" and tensor.data is UNSET
        if dtype is None or not plain or not min(tensor.shape, default=0) >= 0 or len(tensor.shape) > MAX_DIMENSIONS:
            return None, 0
        values = math.prod(tensor.shape)
        if type(size) is not int or size != values * dtype.itemsize or not size:
            return None, 0
        places.append(_Place(tensor.name, dtype, tensor.shape, values, at))
        at += size
    return tuple(places), at


def _views(places: Sequence[_Place], tail: memoryview) -> tuple[TensorValue, ...]:
    found = []
    for name, dtype, shape, values, at in places:
        array = np.frombuffer(tail, dtype, values, at).reshape(shape)
        found.append(TensorValue(name, array if array.flags.aligned else np.copy(array)))
    return tuple(found)


# The requests of a client differ in the bytes behind their JSON, which is the same again and again.
_said_again = lru_cache(maxsize=KEPT_HEADS)(_said)


def _parse(decoder: msgspec.json.Decoder[Any], head: bytes | memoryview) -> Any:
    try:
        return decoder.decode(head)
    except DECODE_ERRORS as error:
        hint = "JSON has no NaN or infinity, and this model may not take them" if _NO_NUMBER.search(head) else ""
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
            _bad(f"output {output.name!r}: shared memory is not supported")
        if said.get("binary_data", default) is True:
            chosen.append(output.name)
    return tuple(output.name for output in outputs), frozenset(chosen), classification


def _read_tensors(tensors: list[ReadTensor], tail: memoryview, *, nulls: bool) -> tuple[TensorValue, ...]:
    values, at = [], 0
    for tensor in tensors:
        size = tensor.parameters.get("binary_data_size") if tensor.parameters else None
        absent = tensor.data is UNSET or tensor.data is None
        if size is None:
            if absent:
                shared = "shared_memory_region" in (tensor.parameters or {})
                why = "shared memory is not supported" if shared else "it has neither data nor binary_data_size"
                _bad(f"tensor {tensor.name!r}: {why}")
            array = from_json(tensor.data, tensor.datatype, tensor.shape, tensor.name, nulls=nulls)
        else:
            if type(size) is not int or not 0 <= size <= len(tail) - at or not absent:
                _bad(f"tensor {tensor.name!r}: binary_data_size {size!r} does not fit, {len(tail) - at} bytes are left")
            array = from_bytes(tail[at : at + size], tensor.datatype, tensor.shape, tensor.name)
            at += size
        values.append(TensorValue(tensor.name, array))
    if at != len(tail):
        _bad(f"{len(tail) - at} bytes follow the last tensor")
    return tuple(values)


def _write_tensors(values: Sequence[TensorValue], binary: frozenset[str]) -> tuple[list[OipTensor], list[bytes]]:
    tensors, tails, everything = [], [], "*" in binary
    for name, array in values:
        tensor = OipTensor(name, array.shape, datatype_of(array))
        if everything or name in binary:
            data = to_bytes(array)
            tails.append(data)
            tensor.parameters = {"binary_data_size": len(data)}
        else:
            tensor.data = to_json(array)
        tensors.append(tensor)
    return tensors, tails


def _join(head: bytes, tails: list[bytes]) -> tuple[bytes, int | None]:
    if not tails:
        return head, None
    return b"".join([head, *tails]), len(head)


def _binary_mark(request: InferRequest, name: str) -> dict[str, Any]:
    return {"binary_data": True} if request.wants_binary(name) else {}


def _bad(message: str, *, hint: str = "") -> NoReturn:
    raise MalformedError(message, subject="inference", hint=hint)

"""The Open Inference Protocol v2 over HTTP: JSON, and the binary tensor extension.

Bodies become arrays and back; routes, gzip headers and status codes belong to the servers. A body
is JSON, optionally followed by the raw bytes of the tensors whose `parameters` carry
`binary_data_size`, in order; the header `Inference-Header-Content-Length` says where the JSON ends.
The header value 0 means that the whole body is the raw data of a model's single input.

Source: https://github.com/kserve/open-inference-protocol (REST) and Triton's binary tensor extension.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct, field

from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.protocol.inputs import check_arrays, names_of, raw_input, refuse
from fleet.protocol.oip_messages import OipOutput as OipOutput
from fleet.protocol.oip_messages import OipRequest as OipRequest
from fleet.protocol.oip_messages import OipResponse as OipResponse
from fleet.protocol.oip_messages import OipTensor as OipTensor
from fleet.protocol.oip_messages import ReadResponse
from fleet.protocol.oip_messages import model_metadata as model_metadata
from fleet.protocol.oip_reading import ALL as ALL
from fleet.protocol.oip_reading import KEPT_HEAD, bad, parsed, read_tensors, said_again, said_in, views_of
from fleet.protocol.oip_reading import TensorValue as TensorValue
from fleet.protocol.oip_reading import asked_outputs as asked_outputs
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import DTYPES as DTYPES
from fleet.protocol.tensors import AnyArray, datatype_of, to_bytes, to_json
from fleet.protocol.top_classes import top_class_words

HEADER = "inference-header-content-length"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")
LIMIT = 64 << 20  # bytes of one body


class InferRequest(Struct, frozen=True, kw_only=True):
    """An application's request. `outputs` are the names it wants (empty: all of them).

    `classification`: the outputs of which it wants the best classes by name, and how many of each.
    """

    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorValue, ...]
    outputs: tuple[str, ...] = ()
    binary_outputs: frozenset[str] = frozenset()
    classification: dict[str, int] = field(default_factory=dict)

    def wants_binary(self, output: str) -> bool:
        """Tell whether `output` is to be answered in binary."""
        return "*" in self.binary_outputs or output in self.binary_outputs


class InferResponse(Struct, frozen=True, kw_only=True):
    """The answer. `parameters` hold strings, numbers and booleans only; `labels` are the class names by output."""

    model_name: str
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[TensorValue, ...]
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)


_RESPONSE = msgspec.json.Decoder(ReadResponse)
_ENCODER = msgspec.json.Encoder()


def parse_header(value: str | None) -> int | None:
    """The number in an `Inference-Header-Content-Length` header; None when the header is absent."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 12):
        bad(f"header {HEADER} is {value[:32]!r}, it must be a number of bytes")
    return int(value)


def decompress(body: bytes, encoding: str, *, limit: int = LIMIT) -> bytes:
    """Undo a body's Content-Encoding.

    Args:
        body: as it came.
        encoding: `gzip`, `deflate`, `identity` or empty.
        limit: bytes that it may inflate to.

    Raises:
        TooLargeError: it inflates to more.
        MalformedError: unknown encoding or broken data.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        bad(f"content encoding {encoding!r} is not supported", hint="use gzip, deflate or none")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip and zlib headers are told apart
    try:
        data = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedError(f"the {encoding} body does not inflate: {error}", subject="body") from error
    if len(data) > limit:
        raise TooLargeError(f"the body inflates to more than {limit} bytes", subject="body")
    if not inflater.eof or inflater.unused_data:
        bad(f"the {encoding} body is cut short or has bytes after its end")
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
    said = said_in(head) if header_length is None or header_length > KEPT_HEAD else said_again(bytes(head))
    plain = said.places is not None and said.size == len(tail)
    return InferRequest(
        id=said.id,
        parameters=said.parameters.copy(),
        inputs=views_of(said.places or (), tail) if plain else read_tensors(said.inputs, tail),
        outputs=said.outputs,
        binary_outputs=said.binary_outputs,
        classification=said.classification,
    )


def encode_request(request: InferRequest, *, binary: bool = True) -> tuple[bytes, int | None]:
    """Encode a request; with `binary` the inputs follow the JSON as raw bytes.

    Returns:
        The body, and the value for the `HEADER` header (None: no header).

    Raises:
        MalformedError: an input holds infinity, which JSON has not.
    """
    chosen = ALL if binary else frozenset[str]()
    tensors, tails = _write_tensors(request.inputs, chosen)
    parameters = dict(request.parameters)
    if "*" in request.binary_outputs:
        parameters["binary_data_output"] = True
    outputs = [OipOutput(name, _binary_mark(request, name)) for name in request.outputs]
    head = _ENCODER.encode(OipRequest(tensors, request.id, parameters, outputs))
    if b"null" in head:
        _check_nulls("input", request.inputs, chosen)
    return _join(head, tails)


def encode_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """Encode the answer to `request`: the outputs it asked for, each in the form it asked for.

    NaN becomes null in JSON; binary keeps it, and infinity.

    Raises:
        MalformedError: the request asks for an output that the model does not have, or for the classes of one that
            has none, or in JSON for one that holds infinity. TooLargeError: for more classes than are written.
    """
    outputs = chosen_outputs(response, request)
    tensors, tails = _write_tensors(outputs, request.binary_outputs)
    head = _ENCODER.encode(
        OipResponse(response.model_name, tensors, response.model_version, response.id, response.parameters)
    )
    if b"null" in head:
        _check_nulls("output", outputs, request.binary_outputs)
    return _join(head, tails)


def chosen_outputs(response: InferResponse, request: InferRequest) -> Sequence[TensorValue]:
    """The outputs that `request` asks for, as numbers or in words; raises as `encode_response`."""
    outputs: Sequence[TensorValue] = response.outputs
    if request.outputs:
        known = {value.name: value for value in response.outputs}
        missing = [name for name in request.outputs if name not in known]
        if missing:
            bad(f"the model has no output {missing[0]!r}", hint=f"its outputs are {', '.join(known)}")
        outputs = [known[name] for name in request.outputs]
    if request.classification:
        wanted, labels = request.classification, response.labels
        outputs = [TensorValue(n, top_class_words(array, wanted.get(n, 0), labels, n)) for n, array in outputs]
    return outputs


def decode_response(body: bytes, header_length: int | None, *, limit: int = LIMIT) -> InferResponse:
    """Decode an answer.

    Args:
        body: JSON, and perhaps bytes behind it.
        header_length: of the JSON; None where nothing is behind it.
        limit: bytes that are decoded at most.

    Raises:
        TooLargeError: more than `limit` bytes.
        MalformedError: as `decode_request`.
    """
    if len(body) > limit:
        raise TooLargeError(f"the response has {len(body)} bytes, at most {limit} are allowed", subject="body")
    head, tail = _split(body, header_length)
    response: ReadResponse = parsed(_RESPONSE, head)
    return InferResponse(
        model_name=response.model_name or "",
        model_version=response.model_version or "",
        id=response.id or "",
        parameters=response.parameters or {},
        outputs=read_tensors(response.outputs, tail),
    )


def check_request(
    request: InferRequest, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> dict[str, AnyArray]:
    """The inputs by name, of a request that a model with these inputs and outputs takes.

    Args:
        request: as it was decoded.
        inputs: of the model, in its order.
        outputs: of the model; the request may ask for some of them.

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
        bad(f"header {HEADER} is {header_length}, the body has {len(body)} bytes")
    return view[:header_length], view[header_length:]


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


def _check_nulls(kind: str, values: Sequence[TensorValue], binary: frozenset[str]) -> None:
    """Refuse infinity, which the encoder writes as null, as it does NaN; hardly any JSON has one, and is looked at."""
    if "*" in binary:
        return
    for name, array in values:
        if name not in binary and array.dtype.kind == "f" and np.isinf(array).any():
            hint = "JSON has no infinity: ask for it, and send it, with the binary extension"
            bad(f"{kind} {name!r} holds infinity", hint=hint)


def _join(head: bytes, tails: list[bytes]) -> tuple[bytes, int | None]:
    if not tails:
        return head, None
    return b"".join([head, *tails]), len(head)


def _binary_mark(request: InferRequest, name: str) -> dict[str, Any]:
    return {"binary_data": True} if request.wants_binary(name) else {}

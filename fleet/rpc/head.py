"""The cost of an inference request, estimated before it is decoded.

Decoding makes an object of every element of BYTES and every parameter, and holds the interpreter's lock meanwhile: a
message of 32 MB may hold 16 million of them. Raw tensors cost nothing but their bytes. So the fields of the outermost
message are walked first, as they lie in the bytes: all but the raw tensors are bounded as JSON is.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import NamedTuple

from fleet.protocol.errors import MalformedError, TooLargeError

FIELDS = 1024  # of a message: tensors, parameters, outputs
LIMIT = 2 << 20  # bytes of all that is not raw, as of JSON
NAME, VERSION, RAW = 1, 2, 7  # fields of ModelInferRequest
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


class RpcHead(NamedTuple):
    """The model and the version that a request asks."""

    model: str
    version: str


def head_of(data: bytes) -> RpcHead:
    """Look at a ModelInferRequest.

    Raises:
        MalformedError: it is none. TooLargeError: it has more than FIELDS fields, or LIMIT bytes beside raw tensors.
    """
    model, version = b"", b""
    at, other, fields = 0, 0, 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        size = 0
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise _no_message()
        if size > len(data) - at:
            raise _no_message()
        if kind == _BYTES and number == NAME:
            model = data[at : at + size]
        elif kind == _BYTES and number == VERSION:
            version = data[at : at + size]
        at += size
        other += 0 if kind == _BYTES and number == RAW else at - start
        fields += 1
        if fields > FIELDS or other > LIMIT:
            what = f"more than {FIELDS} fields" if fields > FIELDS else f"more than {LIMIT} bytes beside raw tensors"
            raise TooLargeError(f"the request has {what}", subject="body", hint="send tensors in raw_input_contents")
    try:
        return RpcHead(model.decode(), version.decode())
    except UnicodeDecodeError as error:
        raise MalformedError("the model's name is not UTF-8", subject="model") from error


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise _no_message()


def _no_message() -> MalformedError:
    return MalformedError("not a ModelInferRequest", subject="body", hint="send what inference.proto describes")

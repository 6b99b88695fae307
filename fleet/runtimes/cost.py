"""Bounds the cost of a request before it is paid: bytes by the model's interface, JSON by its values.

Reading JSON holds the interpreter's lock wherever it runs, at up to 0.3 µs a value (a text) and 0.5 µs a list; 100,000
texts are 30 ms in which nobody else is answered. The same tensor in the binary extension costs nothing, so that is what
larger requests use.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from fleet.protocol import oip
from fleet.protocol.errors import TooLargeError
from fleet.protocol.manifest import Manifest, Tensor
from fleet.protocol.tensors import dtype_of
from fleet.runtimes.models import MAX_BATCH

BODY_LIMIT = 32 << 20  # bytes, before and after inflating, whatever the model
JSON_LIMIT = 2 << 20  # bytes of JSON
JSON_VALUES = 100_000  # values in a JSON; more are refused unread
LIST = 3  # a list costs as much as so many numbers
IN_FLIGHT = 48 << 20  # bytes of all bodies that wait for their end or their answer, and of answers that are not taken
INFLATED = 1032  # times; the most that deflate gets out of a byte
_HINT = "send and ask for tensors with the binary extension (binary_data_size, binary_data_output)"


def body_limit(manifest: Manifest) -> int:
    """The most bytes that a request to a model can need: its inputs, raw or ready, at the largest batch, in JSON."""
    return max(_limit(manifest.inputs), _limit(manifest.ready))


def _limit(inputs: Sequence[Tensor]) -> int:
    total = JSON_LIMIT
    for spec in inputs:
        sample = spec.shape[1:] if spec.shape[:1] == (-1,) else spec.shape
        if spec.datatype == "BYTES" or -1 in sample:
            return BODY_LIMIT
        rows = MAX_BATCH if spec.shape[:1] == (-1,) else 1
        total += rows * prod(sample) * dtype_of(spec.datatype).itemsize
    return min(total, BODY_LIMIT)


def check_json(body: bytes, header_length: int | None) -> None:
    """Raise TooLargeError unless the JSON of a body may be read; commas and brackets count, also those in text."""
    if header_length is not None and header_length * LIST <= JSON_VALUES:
        return  # of nearly all requests with binary tensors
    size = len(body) if header_length is None else min(header_length, len(body))
    if size > JSON_LIMIT:
        raise json_too_large(size)
    if size * LIST > JSON_VALUES:
        head = body if size == len(body) else body[:size]
        values = head.count(b",") + LIST * (head.count(b"[") + head.count(b"{"))
        if values > JSON_VALUES:
            raise TooLargeError(
                f"the request's JSON has {values} values (a list counts as {LIST}), at most {JSON_VALUES} are read",
                hint=_HINT,
            )


def request_limit(limit: int, *, binary: bool) -> int:
    """The most bytes of a request to a model whose `limit` this is; `binary` where tensors follow the JSON."""
    return limit if binary else min(limit, JSON_LIMIT)


def request_too_large(size: int, limit: int, *, binary: bool) -> TooLargeError:
    """For a request of `size` bytes, read or announced; where it is all JSON, it says what would be smaller."""
    if binary:
        return TooLargeError(f"the body has {size} bytes, at most {limit} are allowed for this model", subject="body")
    return json_too_large(size, request_limit(limit, binary=False))


def json_too_large(size: int, limit: int = JSON_LIMIT) -> TooLargeError:
    """For `size` bytes of JSON, read or announced."""
    return TooLargeError(f"the request has {size} bytes of JSON, at most {limit} are read", hint=_HINT)


def inflate(body: bytes, coding: str, limit: int, *, binary: bool) -> bytes:
    """Undo a body's content coding; raises as `oip.decompress`, above `request_limit` as `request_too_large`."""
    most = request_limit(limit, binary=binary)
    try:
        return oip.decompress(body, coding, limit=most)
    except TooLargeError as error:
        if binary:
            raise
        raise TooLargeError(f"the request inflates to more than {most} bytes of JSON", hint=_HINT) from error


def check_answer(answer: oip.InferResponse, request: oip.InferRequest) -> None:
    """Raise TooLargeError where the answer would be written as more JSON than a request may have."""
    if not request.outputs and request.binary_outputs >= oip.ALL:
        return
    values = sum(
        value.array.size
        for value in answer.outputs
        if not request.wants_binary(value.name) and (not request.outputs or value.name in request.outputs)
    )
    if values > JSON_VALUES:
        raise TooLargeError(f"the answer has {values} values, at most {JSON_VALUES} are written as JSON", hint=_HINT)

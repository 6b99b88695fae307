"""Bytes to typed structs and back, with the size checked before anything is decoded."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from fleet.protocol.described import describe_type
from fleet.protocol.errors import MalformedError, TooLargeError

T = TypeVar("T")

# The errors that msgspec raises for hostile bytes: besides its own, text that is not UTF-8 and values
# nested deeper than the stack.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_json(data: bytes, kind: type[T], *, limit: int, subject: str = "") -> T:
    """Decode JSON bytes into a struct; unknown fields are ignored.

    Args:
        data: from outside.
        kind: the struct.
        limit: bytes that are decoded at most.
        subject: the document's name, for messages; empty takes that of `kind`.

    Raises:
        TooLargeError: more than `limit` bytes.
        MalformedError: not JSON, or a field of the wrong type; the message has its path.
    """
    _check_size(data, limit, subject or kind.__name__)
    describe_type(kind)
    try:
        return msgspec.json.decode(data, type=kind)
    except DECODE_ERRORS as error:
        raise MalformedError(f"{subject or kind.__name__}: {error}", subject=subject) from error


def decode_msgpack(data: bytes, kind: type[T], *, limit: int, subject: str = "") -> T:
    """Decode MessagePack bytes into a struct; Args and Raises as `decode_json`."""
    _check_size(data, limit, subject or kind.__name__)
    describe_type(kind)
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except DECODE_ERRORS as error:
        raise MalformedError(f"{subject or kind.__name__}: {error}", subject=subject) from error


def encode_json(value: object) -> bytes:
    """Canonical JSON: keys in sorted order, so equal values give equal bytes."""
    return msgspec.json.encode(value, order="deterministic")


def encode_msgpack(value: object) -> bytes:
    """MessagePack with sorted keys."""
    return msgspec.msgpack.encode(value, order="deterministic")


def from_document(document: object, kind: type[T], *, subject: str = "") -> T:
    """Make a struct from plain dictionaries, lists and values; unknown fields are ignored.

    Args:
        document: from outside.
        kind: the struct.
        subject: the document's name, for messages; empty takes that of `kind`.

    Raises:
        MalformedError: a field is missing or of the wrong type; the message has its path.
    """
    describe_type(kind)
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise MalformedError(f"{subject or kind.__name__}: {error}", subject=subject) from error


def to_document(value: object) -> Any:
    """Plain dictionaries, lists and values of a struct, as they are written in JSON."""
    return msgspec.to_builtins(value)


def check_numbers(value: object, subject: str) -> None:
    """Raise MalformedError when a whole number in `value` does not fit into 64 bits.

    JSON has longer ones; what a document says must be sayable in MessagePack, too, as in a device's reports.
    """
    try:
        msgspec.msgpack.encode(value)
    except OverflowError as error:
        raise MalformedError(f"{subject}: a number does not fit into 64 bits", subject=subject) from error


def _check_size(data: bytes, limit: int, subject: str) -> None:
    if len(data) > limit:
        raise TooLargeError(f"{subject}: {len(data)} bytes, at most {limit} are allowed", subject=subject)

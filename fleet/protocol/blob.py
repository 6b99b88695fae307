"""Content-addressed files."""

from __future__ import annotations

from msgspec import Struct

from fleet.protocol.errors import MalformedError


class Blob(Struct, frozen=True, kw_only=True):
    """A content-addressed file: lower-case hex SHA-256 and size in bytes."""

    sha256: str
    size: int


def check_blob(blob: Blob) -> None:
    """Raise MalformedError unless the blob's hash is 64 hex digits and its size is not negative."""
    if len(blob.sha256) != 64 or not set(blob.sha256) <= set("0123456789abcdef") or blob.size < 0:
        raise MalformedError(f"not a blob reference: {blob.sha256!r}", subject="blob")

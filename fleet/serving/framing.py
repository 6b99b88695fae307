"""The requests that are refused though llhttp takes them, and the limits of one before its body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import httptools

from fleet.serving.port import Reply, error_reply

HEAD_LIMIT = 64 << 10  # bytes of request line and headers
HEADERS = 256  # header lines
FRAMING = 16  # times the body; what chunk sizes and trailers may take beside HEAD_LIMIT
SINGLE = frozenset(  # headers that decide something, of which two would be two answers to one question
    (
        b"host",
        b"origin",
        b"authorization",
        b"content-encoding",
        b"transfer-encoding",  # "chunked" twice, and "gzip" before it, which a mapping of headers would not show
        b"inference-header-content-length",
    )
)


class HeadTooLargeError(Exception):
    """Raised through the parser."""


def too_long() -> Reply:
    """A head without end."""
    return error_reply(431, "too-large", f"request line and headers may have {HEAD_LIMIT} bytes and {HEADERS} lines")


def faulty(
    url: bytes, lines: Sequence[tuple[bytes, bytes]], headers: Mapping[bytes, bytes], raw: int, version: str
) -> Reply | None:
    """Return the refusal of a head that is at fault; None for a good one.

    Args:
        lines: names in lower case and values, in order; `headers` the same by name.
        raw: bytes that have come since the request began, and perhaps some of its body.
    """
    if raw > HEAD_LIMIT and len(url) + sum(len(name) + len(value) + 4 for name, value in lines) > HEAD_LIMIT:
        return too_long()
    coding = headers.get(b"transfer-encoding")
    if coding is not None and (coding.strip().lower() != b"chunked" or version == "1.0"):
        return error_reply(501, "invalid", "no transfer coding but chunked is undone here, and none in HTTP/1.0")
    if len(headers) < len(lines):
        names = [name for name, _ in lines]
        twice = next((name for name in names if name in SINGLE and names.count(name) > 1), None)
        if twice is not None:
            return error_reply(400, "invalid", f"the header {twice.decode()} comes twice")
    return None


def endless(raw: int, body: int | None) -> Reply | None:
    """Return the refusal of a request that is given up on; None while it may go on.

    Args:
        raw: bytes that have come since it began, without its body.
        body: the body's bytes so far; None while the headers are not complete.
    """
    if body is None:
        return too_long() if raw > HEAD_LIMIT else None
    if raw > HEAD_LIMIT + FRAMING * body:
        return error_reply(400, "invalid", "malformed HTTP: chunk sizes and trailers are most of the body")
    return None


def parser_for(protocol: object) -> httptools.HttpRequestParser:
    """A parser as uvicorn makes one, which calls this protocol."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser

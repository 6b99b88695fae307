"""A head that its connection sends again and again, and what the parser made of it.

A client's requests on one connection differ in their bodies. Between two messages the parser has no memory, so the same
bytes of request line and headers mean the same, and need not be parsed, lowered, looked through and refused or not once
more: that is a third of what the protocol costs beside the model. It holds only for requests that came whole, in one
piece, with a `Content-Length` and nothing behind them; all others go by the parser.
"""

from __future__ import annotations

from typing import NamedTuple

from fleet.serving.port import HotRequest

LIMIT = 2048  # bytes of a head that is kept; there is one for each connection


class RepeatedHead(NamedTuple):
    """Request line and headers as they came, the request that they made, and the bytes of body that they announce.

    Data of `whole` bytes that starts with `data` is another request with this head, and no byte more or less.
    """

    data: bytes
    first: HotRequest
    size: int
    whole: int

    def request(self, began: float) -> HotRequest:
        """Another request with this head, with what the route made of it."""
        first = self.first
        again = HotRequest(first.method, first.target, first.headers, began, first.unix)
        again.context = first.context
        return again


def head_of(data: bytes, request: HotRequest, size: int) -> RepeatedHead | None:
    """The head of a request that was parsed from `data` alone and has `size` bytes of body; None where its bytes do not
    say the same of every other body."""
    end = data.find(b"\r\n\r\n") + 4
    if end > LIMIT or end + size != len(data) or b"expect" in request.headers:
        return None
    if request.headers.get(b"content-length") != b"%d" % size:  # in chunks, or without a body
        return None
    first = HotRequest(request.method, request.target, request.headers, request.began, request.unix)
    first.context = request.context  # and not the body
    return RepeatedHead(data[:end], first, size, end + size)

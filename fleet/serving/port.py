"""The port between a listener and what answers its hot route."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol


class HotRequest:
    """One request of the hot route.

    Attributes:
        context: what the route likes to keep. A request with the same head as one before it on its connection, byte for
            byte, begins with that one's, else with None.
        method, target: as the request line has them; the target is not decoded.
        headers: by lower-case name; a name that comes twice has its last value, and those that decide something
            (`framing.SINGLE`) never come twice.
        body: whole, once `HotRoute.answer` is called; without transfer coding, with content coding.
        began: when the first byte came, by the event loop's clock in seconds.
        unix: it came through a Unix socket.
        gone: the client closed the connection meanwhile; nobody reads an answer, and what has not begun need not.
    """

    body = b""
    gone = False
    context: Any = None

    def __init__(self, method: bytes, target: bytes, headers: dict[bytes, bytes], began: float, unix: bool) -> None:
        self.method, self.target, self.headers = method, target, headers
        self.began, self.unix = began, unix

    def left(self) -> bool:
        """Tell whether nobody reads an answer any more: `gone`, for whoever asks later."""
        return self.gone


class Reply(NamedTuple):
    """An answer. `headers` are whole lines, each with its CRLF; length and connection are the protocol's business."""

    status: int
    headers: bytes
    body: bytes


class Promise:
    """An answer that comes in this turn of the event loop, by `keep`: what a task would cost is half of a short run."""

    __slots__ = ("keep",)
    keep: Callable[[Reply | Awaitable[Reply]], None]


class HotRoute(Protocol):
    """The answering side of a hot route; all methods are called on the event loop and must not block."""

    def begin(self, request: HotRequest) -> int | Reply | None:
        """The headers are complete: the most bytes that the body may have, or an answer at once.

        None leaves the request to ASGI.
        """

    def answer(self, request: HotRequest) -> Reply | Promise | Awaitable[Reply]:
        """The body is complete. A Reply goes out at once, an awaitable in a task of its own.

        Of a Promise the listener sets `keep`, and the route calls it once, later.
        """

    def too_large(self, request: HotRequest, size: int) -> Reply:
        """The body has, or announces, `size` bytes, which is more than `begin` allowed."""


JSON = b"content-type: application/json\r\n"


def error_reply(status: int, code: str, text: str, headers: bytes = b"") -> Reply:
    """`{"error": text, "code": code}`; `code` is a word of `fleet.protocol.refusals`, `headers` are further lines."""
    return Reply(status, JSON + headers, json.dumps({"error": text, "code": code}).encode())


BROKEN = error_reply(500, "internal", "internal error; the log has the reason")

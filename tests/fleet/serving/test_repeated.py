"""A head that comes again: the connection answers as one that parses every head, whatever stands between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from fleet.serving import ByteBudget, HotRequest, Reply, Shared, error_reply, hot_protocol
from fleet.serving.protocol import HotProtocol
from fleet.serving.repeated import LIMIT, head_of
from tests.support.size import sized


class Wire(asyncio.Transport):
    """Keeps what is written to it, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Route:
    """Says what it was asked. `/no` is refused by its head, `/later` in a task, `/asgi` by nobody here."""

    def begin(self, request: HotRequest) -> int | Reply | None:
        if request.target == b"/asgi":
            return None
        if request.target == b"/no":
            return error_reply(403, "forbidden", "no")
        if request.context is None:
            request.context = request.headers.get(b"x-a", b"")
        return 40

    def answer(self, request: HotRequest) -> Any:
        reply = Reply(200, b"", b"%b|%b|%b" % (request.target, request.context, request.body))
        return self._later(reply) if request.target == b"/later" else reply

    async def _later(self, reply: Reply) -> Reply:
        await asyncio.sleep(0)
        return reply

    def too_large(self, request: HotRequest, size: int) -> Reply:
        return error_reply(413, "too-large", f"{size} bytes")


async def app(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while (event := await receive())["type"] == "http.request":
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def answers(pieces: list[bytes], *, budget: int = 1 << 20) -> tuple[bytes, bool, int]:
    """The bytes that go out where these pieces come in, one per turn; whether the connection ended; bytes that stay
    counted.
    """
    shared = Shared(Route(), ByteBudget(budget))
    config = uvicorn.Config(app, lifespan="off", log_config=None, server_header=False, date_header=False)
    protocol, wire = hot_protocol(shared)(config, ServerState(), {}), Wire()
    protocol.connection_made(wire)
    for piece in pieces:
        if not wire.closed:
            protocol.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(4 * len(pieces) + 8):
        await asyncio.sleep(0)
    found = wire.written, wire.closed
    protocol.connection_lost(None)
    return *found, shared.budget.taken


def both(pieces: list[bytes], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, int]:
    """With the short way and without it, and how often it was taken."""
    once_more, taken = HotProtocol._once_more, 0

    def counted(self: HotProtocol, *arguments: Any) -> bool:
        nonlocal taken
        found = once_more(self, *arguments)
        taken += found
        return found

    monkeypatch.setattr(HotProtocol, "_once_more", counted)
    short = asyncio.run(answers(pieces))
    monkeypatch.setattr(HotProtocol, "_once_more", lambda *_: False)
    return short, asyncio.run(answers(pieces)), taken


def post(target: str = "/hot", body: bytes = b"abc", *lines: str, length: int | None = None) -> bytes:
    said = f"Content-Length: {len(body) if length is None else length}"
    return "\r\n".join((f"POST {target} HTTP/1.1", "Host: x", *lines, said, "", "")).encode() + body


PIECES = [
    post(),
    post(body=b"xyz"),
    post(body=b"\r\n\r"),
    post(body=b"\n\r\n"),
    post("/no"),
    post("/later"),
    post("/asgi"),
    post("/hot", b"abc", "X-A: 1"),
    post("/hot", b"abc", "Connection: close"),
    post("/hot", b"abc", "Expect: 100-continue"),
    post("/hot", b"abc", "Connection: upgrade", "Upgrade: h2c"),
    post("/hot", b""),
    post("/hot", b"y" * 41),
    post().replace(b"HTTP/1.1", b"HTTP/1.0"),
    post() + post(body=b"two"),
    post() + b"\r\n",
    b"\r\n" + post(),
    b"\r\n",
    b"POST /hot HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST /hot HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"rubbish\r\n\r\n",
]


@given(chosen=st.lists(st.sampled_from(PIECES), max_size=8), cuts=st.lists(st.integers(0, 400), max_size=3))
def test_a_known_head_changes_nothing_but_the_way(chosen: list[bytes], cuts: list[int]) -> None:
    """Pieces as clients send them, each by itself or cut anywhere, joined with the next, doubled."""
    pieces = [one for piece in chosen for one in ((piece, piece) if len(piece) < 100 else (piece,))]
    for cut in cuts:
        at = cut % (len(pieces) or 1)
        if pieces:
            whole = pieces[at]
            pieces[at : at + 1] = [part for part in (whole[: cut % len(whole)], whole[cut % len(whole) :]) if part]
    with pytest.MonkeyPatch.context() as patch:
        short, long, _ = both(pieces, patch)
    assert short == long


def test_the_short_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long, taken = both([post(), post(body=b"two"), post(body=b"six"), post("/no"), post("/no")], monkeypatch)
    assert short == long and taken == 2
    assert short[0].count(b"HTTP/1.1 200") == 3 and b"/hot||six" in short[0] and short[0].count(b" 403 ") == 2


@pytest.mark.parametrize(
    "data",
    [
        post("/hot", b"abc", "X-A: " + "a" * LIMIT),
        post("/hot", b"abc", "Expect: 100-continue"),
        b"\r\n\r\n" + post(),
        post() + b"\r\n",
        post(length=4),
    ],
    ids=["long", "expects", "after empty lines", "before an empty line", "not whole"],
)
def test_heads_that_are_not_kept(data: bytes) -> None:
    body = b"abc"
    headers = {b"content-length": b"3"}
    if b"Expect" in data:
        headers[b"expect"] = b"100-continue"
    request = HotRequest(b"POST", b"/hot", headers, 0.0, unix=False)
    assert head_of(data, request, len(body) + (data == post(length=4))) is None


def test_what_a_route_notes_of_a_head_comes_again_with_it_and_nothing_of_a_body_stays() -> None:
    request = HotRequest(b"POST", b"/hot", {b"content-length": b"3"}, 0.0, unix=False)
    request.body, request.context = b"abc", "noted"
    head = head_of(post(), request, 3)
    assert head is not None and post(body=b"xyz") == head.data + b"xyz" and head.whole == len(post())
    again = head.request(2.0)
    assert (again.context, again.began, again.body, head.first.body) == ("noted", 2.0, b"", b"")


def test_many_requests_in_a_row_hold_nothing() -> None:
    written, closed, taken = asyncio.run(answers([post()] * sized(50, 2000)))
    assert written.count(b"HTTP/1.1 200") == sized(50, 2000) and not closed and taken == 0

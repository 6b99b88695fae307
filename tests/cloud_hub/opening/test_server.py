"""The hub's listener: a client that sends no end of a body is ended, whatever it asked and whatever it was answered."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from cloud_hub.api import bodies
from cloud_hub.app import create_app
from cloud_hub.opening.server import HubServer, make_server
from fleet.serving import LIMIT_S, sweep_connections
from tests.fleet.serving.listener import Client, until
from tests.support.hub import HubFixture

FORM = "Content-Type: application/x-www-form-urlencoded"
JSON = "Content-Type: application/json"
HALF = [
    ("POST /v2/repository/index", JSON),
    ("POST /v2/models/tiny/infer", JSON),
    ("POST /v2/models/tiny/infer_async", JSON),
    ("POST /api/v1/models", JSON),
    ("POST /api/v1/tokens", JSON),
    ("POST /device/enroll", JSON),
    ("PUT /api/v1/blobs/" + "0" * 64, ""),
    ("POST /login", FORM),
    ("POST /nothing", JSON),
    ("GET /nothing", ""),
]


@contextlib.asynccontextmanager
async def listening(hub: HubFixture) -> AsyncIterator[tuple[HubServer, Callable[[], Awaitable[Client]]]]:
    """The hub's server on loopback, and what connects to it."""
    app = create_app(hub.hub)
    inference = app.state.inference
    server = make_server(app, inference.shared, lifespan="off", log_config=None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.config.load()
        task = asyncio.create_task(server._serve([listener]))  # `serve` would take the signals of the test run

        async def client() -> Client:
            return Client(*await asyncio.open_connection(*listener.getsockname()))

        async with asyncio.timeout(60):
            yield server, client
        for one in list(server.server_state.connections):
            one.end()
        server.should_exit = True
        await task
    inference.close()


def later(server: HubServer, seconds: float) -> None:
    """A sweep now, and one when so much time has passed."""
    now = asyncio.get_running_loop().time()
    for moment in (now, now + seconds):
        sweep_connections(server.shared, server.swept(), moment)


def half(what: str, *lines: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"{what} HTTP/1.1", "Host: a", "Content-Length: 1000", *lines) if line)
    return head.encode() + b"\r\n{"


@pytest.mark.parametrize(("what", "kind"), HALF)
def test_half_a_body_without_a_token_holds_a_connection_for_its_time_and_no_longer(
    hub: HubFixture, what: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with listening(hub) as (server, connect):
            client = await connect()
            await client.send(half(what, kind))
            connections = server.server_state.connections
            await until(lambda: any(one.cycle is not None for one in connections))
            (one,) = connections
            if what != "POST /login":  # which waits for the whole form
                await until(lambda: one.cycle.response_complete)
            later(server, LIMIT_S["body"] - 1)
            assert one in connections
            later(server, LIMIT_S["body"] + 1)
            assert one not in connections
            with contextlib.suppress(ConnectionResetError):
                await client.reader.read()

    asyncio.run(scenario())
    assert "Traceback" not in caplog.text and "failed" not in caplog.text


def test_an_authenticated_request_that_was_answered_before_its_body_came_is_ended(hub: HubFixture) -> None:
    hub.model("tiny")
    token = hub.token("application", scope="infer:tiny")

    async def scenario() -> None:
        async with listening(hub) as (server, connect):
            client = await connect()
            await client.send(half("POST /v2/models/tiny/infer", JSON, f"Authorization: Bearer {token}"))
            status, _, _ = await client.answer()
            assert status == 404
            later(server, LIMIT_S["body"] + 1)
            assert await client.ended()

    asyncio.run(scenario())


def test_an_upload_may_take_longer_as_long_as_it_goes_on(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"{" + b"x" * 999
    put, bearer = f"PUT /api/v1/blobs/{hashlib.sha256(data).hexdigest()}", f"Authorization: Bearer {hub.admin_token}"

    async def scenario() -> None:
        async with listening(hub) as (server, connect):
            client = await connect()
            await client.send(half(put, bearer))
            connections = server.server_state.connections
            await until(lambda: any(one.cycle is not None for one in connections))
            (one,) = connections
            await until(lambda: bodies.UPLOADS in one.cycle.scope)
            later(server, 10 * LIMIT_S["body"])
            await client.send(data[1:500])
            later(server, 10 * LIMIT_S["body"])
            await client.send(data[500:])
            assert (await client.answer())[0] == 201
            monkeypatch.setitem(LIMIT_S, "body", 0.01)
            await client.send(half(put, bearer))
            status, _, body = await client.answer()
            assert status == 504 and b"nothing came of the body" in body
            monkeypatch.undo()
            later(server, LIMIT_S["body"] + 1)  # its answer is out
            assert await client.ended()

    asyncio.run(scenario())


def test_a_request_for_the_index_that_announces_too_much_is_not_told_to_go_on(hub: HubFixture) -> None:
    bearer = f"Authorization: Bearer {hub.token('application', scope='infer:tiny')}"
    head = f"POST /v2/repository/index HTTP/1.1\r\nHost: a\r\n{bearer}\r\nExpect: 100-continue\r\n"

    async def scenario() -> None:
        async with listening(hub) as (_, connect):
            client = await connect()
            await client.send(head.encode() + b"Content-Length: 10000000\r\n\r\n")
            assert (await client.answer())[0] == 413

    asyncio.run(scenario())

"""A client that holds what it does not use keeps nobody out, and does not keep it for long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from types import SimpleNamespace

import pytest

from edge_agent.serving import connections
from edge_agent.serving.bounds import SMALL, InFlight
from edge_agent.serving.connections import LIMIT_S, Phases, most, sweep
from edge_agent.serving.server import make_server
from fleet.protocol.channel import ModelEntry
from tests.support import models
from tests.support.agent import Agent

BODY = json.dumps({"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [9, 0, 0, 0]}]}).encode()
HEAD = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
WHOLE = HEAD % len(BODY) + BODY
MINE = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: loc"


class Client:
    """One connection to the agent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), headers, await self._reader.readexactly(int(headers["content-length"]))

    async def ended(self) -> bool:
        """Waits for the end of the connection."""
        with contextlib.suppress(ConnectionResetError):
            assert await self._reader.read() == b""
        return True

    async def ask(self) -> int:
        await self.send(WHOLE)
        return (await self.answer())[0]

    def close(self) -> None:
        self._writer.transport.abort()


class Served:
    """An agent's API in this event loop."""

    def __init__(self, agent: Agent, listener: socket.socket, server) -> None:
        self.agent, self._listener, self.connections = agent, listener, server.server_state.connections

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection(*self._listener.getsockname()))

    async def until(self, count: int) -> None:
        """The server knows of so many connections."""
        while len(self.connections) != count:
            await asyncio.sleep(0)

    def later(self, seconds: float) -> None:
        """A sweep now, and one when so much time has passed."""
        now = asyncio.get_running_loop().time()
        sweep(self.connections, now)
        sweep(self.connections, now + seconds)


@contextlib.asynccontextmanager
async def serving(tmp_path):
    agent = Agent(tmp_path)
    agent.follow(ModelEntry(release=1))
    await agent.slots.activate(models.release(agent.blobs, data=b"fake"), None, None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = make_server(agent.app)
        task = asyncio.create_task(server.serve([listener]))
        async with asyncio.timeout(60):
            yield Served(agent, listener, server)
        for one in list(server.server_state.connections):
            one.end()
        server.should_exit = True
        await task


def run(tmp_path, scenario):
    async def whole():
        async with serving(tmp_path) as served:
            await scenario(served)

    asyncio.run(whole())


@pytest.mark.parametrize(
    ("sent", "phase"),
    [(b"", "first"), (MINE, "first"), (HEAD % 100 + b"{", "body"), (WHOLE, "idle"), (WHOLE + MINE, "idle")],
)
def test_a_connection_that_stands_still_ends(tmp_path, sent, phase):
    async def scenario(served):
        client, other = await served.client(), await served.client()
        await client.send(sent)
        if sent.startswith(WHOLE):
            assert (await client.answer())[0] == 200
        await served.until(2)
        (mine,) = (one for one in served.connections if one.transport.get_extra_info("peername") == client_name(client))
        while mine.phases.phase(mine.cycle, 0) != phase:
            await asyncio.sleep(0)
        served.later(LIMIT_S[phase] - 1)
        assert mine in served.connections
        served.later(LIMIT_S[phase] + 1)
        assert await client.ended()
        third = await served.client()
        assert await third.ask() == 200
        other.close()

    run(tmp_path, scenario)


def client_name(client: Client) -> tuple[str, int]:
    return client._writer.get_extra_info("sockname")


def test_a_client_that_holds_all_connections_keeps_nobody_out(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "most", lambda: 20)

    async def scenario(served):
        held = []
        for number in range(100):
            held.append(await served.client())
            await held[-1].send(MINE if number % 2 else b"")
            client = await served.client()
            assert await client.ask() == 200
            assert len(served.connections) <= 20
        assert await held[0].ended()

    run(tmp_path, scenario)


def test_where_all_are_at_work_a_new_connection_is_503_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "most", lambda: 3)

    async def scenario(served):
        held = [await served.client() for _ in range(3)]
        for client in held:
            await client.send(HEAD % len(BODY) + BODY[:-1])
        await served.until(3)
        while any(one.cycle is None for one in served.connections):
            await asyncio.sleep(0)
        late = await served.client()
        status, headers, body = await late.answer()
        assert (status, headers["retry-after"]) == (503, "1") and "at work" in json.loads(body)["error"]
        assert await late.ended()
        for client in held:
            await client.send(BODY[-1:])
            assert (await client.answer())[0] == 200

    run(tmp_path, scenario)


def test_large_bodies_share_one_budget_and_small_requests_pass(tmp_path):
    async def scenario(served):
        whole = served.agent.app._in_flight = InFlight(3 * SMALL)
        first, second, third = [await served.client() for _ in range(3)]
        await first.send(HEAD % (4 * SMALL // 2) + b" " * (2 * SMALL - 1))
        while whole.taken < 2 * SMALL - 1:
            await asyncio.sleep(0)
        await second.send(HEAD % (2 * SMALL) + b" ")
        status, headers, body = await second.answer()
        assert (status, headers["retry-after"]) == (503, "1") and "other requests" in json.loads(body)["error"]
        assert await third.ask() == 200
        first.close()
        while whole.taken:
            await asyncio.sleep(0)
        fourth = await served.client()
        await fourth.send(HEAD % (2 * SMALL) + BODY + b" " * (2 * SMALL - len(BODY)))
        assert (await fourth.answer())[0] == 200
        assert whole.taken == 0

    run(tmp_path, scenario)


def test_an_announced_length_alone_holds_nothing(tmp_path):
    async def scenario(served):
        whole = served.agent.app._in_flight = InFlight(3 * SMALL)
        held = [await served.client() for _ in range(10)]
        for client in held:
            await client.send(HEAD % (2 * SMALL) + b" ")
        while whole.taken < 10:
            await asyncio.sleep(0)
        assert whole.taken == 10

    run(tmp_path, scenario)


def test_phases_are_told_apart_and_progress_begins_anew():
    cycle = SimpleNamespace(response_complete=False, more_body=False)
    phases = Phases(0.0)
    assert phases.late(cycle, 0, 5.0) == "" and phases.phase(cycle, 0) == "work"
    assert phases.late(cycle, 0, 1e9) == ""  # the watchdog's and the deadlines' business
    assert phases.late(cycle, 500, 1e9) == "" and phases.phase(cycle, 500) == "answer"
    assert phases.late(cycle, 400, 1e9 + 29) == ""
    assert phases.late(cycle, 400, 1e9 + 58) == ""
    assert phases.late(cycle, 400, 1e9 + 60) == "answer"
    other = SimpleNamespace(response_complete=True, more_body=False)
    assert phases.late(other, 0, 1e9 + 61) == "" and phases.late(other, 0, 1e9 + 137) == "idle"


def test_there_is_room_for_files_beside_the_connections(monkeypatch):
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (256, 256))
    assert most() == 128

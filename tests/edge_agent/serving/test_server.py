"""The local API's sockets."""

from __future__ import annotations

import asyncio
import socket
import threading

import numpy as np
import pytest

from edge_agent import client
from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError, UsageError
from edge_agent.host.memory import WORTH
from edge_agent.serving.server import address, bind_local_api, make_server
from tests.support import models
from tests.support.agent import Agent


def test_accepted_connections_do_not_wait_for_delayed_acknowledgements(tmp_path):
    """Without TCP_NODELAY an answer in two segments takes 40 ms longer than the model needs."""
    (listener,) = bind_local_api(AgentConfig(dir=tmp_path, port=0))
    with listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_local_api_stays_on_this_machine(tmp_path):
    with pytest.raises(UsageError, match="loopback only"):
        bind_local_api(AgentConfig(dir=tmp_path, host="0.0.0.0"))


def test_a_port_and_a_unix_socket_are_served_side_by_side(tmp_path):
    agent = Agent(tmp_path)
    asyncio.run(agent.slots.activate(models.release(agent.blobs, data=b"fake"), None, None))
    path = tmp_path / "api.sock"
    listeners = bind_local_api(AgentConfig(dir=tmp_path, port=0, uds=str(path)))
    assert [address(one).split(":")[0] for one in listeners] == ["http", "unix"]
    x = np.array([[9, 0, 0, 0]], np.float32)

    async def scenario():
        server = make_server(agent.app, agent.shared)
        task = asyncio.create_task(server._serve(listeners))
        for one in listeners:
            answer = await asyncio.to_thread(client.infer, "tiny", x, url=address(one))
            assert answer.parameters["served_by"] == "edge"
            code, _, _ = await asyncio.to_thread(
                client.call, address(one), "GET", "/status", b"", {"Host": "evil.example"}
            )
            assert code == (200 if address(one).startswith("unix") else 403)  # no browser reaches a Unix socket
        server.should_exit = True
        await task

    asyncio.run(scenario())


def test_what_large_bodies_held_is_given_back_off_the_event_loop(tmp_path):
    agent, threads = Agent(tmp_path), []

    async def scenario():
        given = asyncio.Event()
        loop = asyncio.get_running_loop()

        def give_back():
            threads.append(threading.current_thread())
            loop.call_soon_threadsafe(given.set)

        server, budget = make_server(agent.app, agent.shared, give_back), agent.shared.budget
        for taken in (WORTH, WORTH, 0, 0):
            budget.taken = taken
            assert not await server.on_tick(1)
        await asyncio.wait_for(given.wait(), 60)

    asyncio.run(scenario())
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [({"port": 0}, ["http"]), ({"uds": "a"}, ["unix"]), ({"port": 0, "uds": "a"}, ["http", "unix"])],
)
def test_a_unix_socket_alone_opens_no_port(tmp_path, monkeypatch, settings, kinds):
    monkeypatch.chdir(tmp_path)
    listeners = bind_local_api(AgentConfig(dir=tmp_path, **settings))
    assert [address(one).split(":")[0] for one in listeners] == kinds
    for one in listeners:
        one.close()


def test_where_one_cannot_be_bound_none_is(tmp_path):
    (tmp_path / "folder").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(AgentError, match=r"cannot listen on .*folder"):
        bind_local_api(AgentConfig(dir=tmp_path, port=port, uds=str(tmp_path / "folder")))
    socket.create_server(("127.0.0.1", port)).close()

"""Sockets of simulated devices on one event loop."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from edge_agent.identity.enroll import Enrollment
from fleet.protocol.messages import MqttEndpoint
from fleet.simulator.connection import Connection
from fleet.simulator.outbox import Send


def test_a_socket_leaves_the_loop_before_another_one_takes_its_number() -> None:
    async def run() -> list[str]:
        loop, heard = asyncio.get_running_loop(), []
        with ThreadPoolExecutor(1) as threads:
            broker = MqttEndpoint(host="127.0.0.1", port=1, tls=False)
            connection = Connection(
                Enrollment(hub="", device_id="sim-1", channel="stable", mqtt=broker),
                loop,
                threads,
                context=None,
                on_open=lambda: None,
                on_lost=lambda why: None,
                on_message=lambda topic, payload: None,
            )
            client = connection._made(Send("status", b"gone"))
            old, others_end = socket.socketpair()
            number = old.fileno()
            loop.add_reader(old, lambda: None)
            loop.add_writer(old, lambda: None)
            client.on_socket_close(client, None, old)
            old.close()
            ours, theirs = socket.socketpair()
            assert ours.fileno() == number, "the system gives the lowest number that is free"
            loop.add_reader(ours, lambda: heard.append(ours.recv(10).decode()))
            theirs.send(b"hello")
            while not heard:
                await asyncio.sleep(0)
            loop.remove_reader(ours)
            for end in (others_end, ours, theirs):
                end.close()
        return heard

    assert asyncio.run(asyncio.wait_for(run(), 20)) == ["hello"]

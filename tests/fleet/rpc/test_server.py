"""Connections that a client holds without using them: they take no files from others, and end by themselves."""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import Any

import grpc
import pytest

from fleet.rpc import messages, server
from fleet.rpc.server import Server, most


class Ready:
    """As much of an `Inference` as health needs."""

    def ready(self) -> bool:
        return True


def ask(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = messages.kind("ServerReadyResponse").FromString
        return bool(channel.unary_unary(f"/{messages.SERVICE}/ServerReady", None, answer)(b"", timeout=60).ready)


def ended(connection: socket.socket) -> bool:
    """Whether the server ends it; it may say something first."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def test_more_connections_than_there_may_be_end_at_once_and_unused_ones_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_MS", 200)

    async def scenario() -> None:
        made: Any = Server(Ready(), "127.0.0.1:0", message_limit=1, connections=3)  # type: ignore[arg-type]
        bound, port = made.bind()
        task = asyncio.create_task(made.serve(bound))
        await asyncio.sleep(0)
        held = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(3)]
        with socket.create_connection(("127.0.0.1", port), 60) as fourth:
            assert await asyncio.to_thread(ended, fourth)
        assert all([await asyncio.to_thread(ended, one) for one in held])  # none of them ever spoke
        assert await asyncio.to_thread(ask, port)
        for one in held:
            one.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


@pytest.mark.parametrize(("files", "connections"), [(1 << 20, 512), (1024, 256), (2, 1), (resource.RLIM_INFINITY, 512)])
def test_connections_leave_files_for_others(monkeypatch: pytest.MonkeyPatch, files: int, connections: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
    assert most() == connections

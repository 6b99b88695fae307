"""Clients of a benchmark: one request again and again over raw sockets, so that the client costs next to nothing."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from statistics import median

TURN = 40  # requests of one server before the next one's turn
LENGTH = b"content-length: "


def size_of(head: bytes) -> int:
    """The length of a body by the head before it."""
    lower = head.lower()
    at = lower.index(LENGTH) + len(LENGTH)
    return int(lower[at : lower.index(b"\r\n", at)])


class Client:
    """One connection, one request at a time; a Unix socket's path in place of host and port."""

    def __init__(self, where: tuple[str, int] | str, request: bytes) -> None:
        family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(where)
        if family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = request

    def ask(self) -> bytes:
        """The answer's body; raises RuntimeError unless it is 200."""
        self.socket.sendall(self.request)
        data = self.socket.recv(65536)
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        missing = end + 4 + size_of(data[: end + 2]) - len(data)
        while missing > 0:
            more = self._more()
            data, missing = data + more, missing - len(more)
        if data[9:12] != b"200":
            raise RuntimeError(data[:300].decode("latin-1"))
        return data[end + 4 :]

    def _more(self) -> bytes:
        more = self.socket.recv(65536)
        if not more:
            raise RuntimeError("the server closed the connection")
        return more


def p50_us(sides: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Medians of one request at a time, in turns; the first turn of each side is not counted."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    until, clock, first = time.perf_counter() + seconds, time.perf_counter, True
    while first or clock() < until:
        for name, ask in sides.items():
            for _ in range(TURN):
                started = clock()
                ask()
                took[name].append((clock() - started) * 1e6)
            if first:
                took[name].clear()
        first = False
    return {name: round(median(values), 1) for name, values in took.items() if values}


class _Loader(asyncio.Protocol):
    """Sends the next request when the answer is there."""

    def __init__(self, request: bytes, done: list[int]) -> None:
        self.request, self.done = request, done
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first request."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Count an answer."""
        data = self.buffer + data if self.buffer else data
        end = data.find(b"\r\n\r\n")
        if end < 0 or len(data) < end + 4 + size_of(data[: end + 2]):
            self.buffer = data
            return
        if data[9:12] != b"200":
            raise RuntimeError(data[:300].decode("latin-1"))
        self.buffer = b""
        self.done[0] += 1
        self.transport.write(self.request)


def per_second(
    where: tuple[str, int], request: bytes, clients: int, seconds: float, *, warm_up_s: float | None = None
) -> float:
    """Answers per second to so many clients, each with one request at a time.

    `warm_up_s` are not counted, a fifth of `seconds` by default, which come after.
    """

    async def load() -> float:
        done, loop = [0], asyncio.get_running_loop()
        made = [await loop.create_connection(lambda: _Loader(request, done), *where) for _ in range(clients)]
        await asyncio.sleep(seconds / 5 if warm_up_s is None else warm_up_s)
        before, started = done[0], time.perf_counter()
        await asyncio.sleep(seconds)
        found = (done[0] - before) / (time.perf_counter() - started)
        for transport, _ in made:
            transport.abort()
        return found

    return asyncio.run(load())

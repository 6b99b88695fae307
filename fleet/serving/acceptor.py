"""Accepts connections for uvicorn, so that what is not a connection yet has a bound, too.

asyncio accepts as many as the backlog holds, gives each TLS handshake a minute, and where no file is left logs a
traceback for each of them: 600 clients that connect and say nothing kept a TLS listener of 256 files busy for a
minute, and wrote half a million lines. Here a handshake has `HANDSHAKE_S`; at most `waiting` are under way, and one
more takes the place of the oldest; and where no file is left the listener rests for `REST_S` and says so once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

import uvicorn

from fleet.serving.connections import Shared, sweep_connections

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
LEAST = 16  # handshakes that may be under way, however few connections there may be
AT_ONCE = 32  # connections that are accepted in one turn of the event loop
REST_S = 0.5
SWEEP_TICKS = 10  # uvicorn ticks ten times a second
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """One listening socket; stands where uvicorn has an `asyncio.Server`."""

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        *,
        tls: ssl.SSLContext | None,
        waiting: int,
        backlog: int,
    ) -> None:
        """`make` makes the protocol of a connection. The socket is the caller's to close."""
        self._listener, self._make, self._tls, self._waiting = listener, make, tls, waiting
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[asyncio.Task[None], socket.socket] = {}  # in the order in which they came
        self._leaving: asyncio.Task[None] | None = None  # makes room
        self._closed = False
        listener.setblocking(False)
        listener.listen(backlog)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept nothing more; handshakes under way are given up."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listener)
            for connection in self._under_way.values():
                _hang_up(connection)

    async def wait_closed(self) -> None:
        """Return when nothing is under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            if len(self._under_way) >= self._waiting:
                self._make_room()
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._rest(error)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._begin(connection))
            self._under_way[task] = connection
            task.add_done_callback(self._under_way.pop)

    def _make_room(self) -> None:
        """Let the oldest handshake fail, unless one is about to: it is gone a few turns of the event loop later.

        A handshake that is cancelled before its first step would keep its file until its time is over.
        """
        if self._tls is not None and (self._leaving is None or self._leaving.done()):  # without TLS it takes a turn
            self._leaving, connection = next(iter(self._under_way.items()))
            _hang_up(connection)

    def _rest(self, error: OSError) -> None:
        log.warning("no connection is accepted for %.1f s: %s", REST_S, error)
        self._loop.remove_reader(self._listener)
        self._loop.call_later(REST_S, self._go_on)

    def _go_on(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    async def _begin(self, connection: socket.socket) -> None:
        limit = HANDSHAKE_S if self._tls is not None else None
        try:
            await self._loop.connect_accepted_socket(self._make, connection, ssl=self._tls, ssl_handshake_timeout=limit)
        except OSError as error:  # a client's own affair, or it gave way to another; asyncio has closed the socket
            log.debug("a connection did not come about: %r", error)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client has gone by itself
        connection.shutdown(socket.SHUT_RDWR)


class BoundedServer(uvicorn.Server):
    """uvicorn with acceptors, and with a sweep of the connections once a second. `shared` is what these share."""

    def __init__(self, config: uvicorn.Config, shared: Shared) -> None:
        super().__init__(config)
        self.shared = shared

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own, but for what listens on `sockets`."""
        await super().startup(sockets=[])
        waiting = max(LEAST, self.shared.limit // 4)
        self.servers: list[Any] = [
            Acceptor(one, self._protocol, tls=self.config.ssl, waiting=waiting, backlog=self.config.backlog)
            for one in sockets or []
        ]

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's own, ten times a second; with a sweep in every tenth."""
        if counter % SWEEP_TICKS == 0:
            sweep_connections(self.shared, self.swept(), asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def swept(self) -> list[Any]:
        """The connections whose time is bounded by the sweep."""
        return list(self.server_state.connections)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

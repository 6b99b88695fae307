"""The sockets that the local API listens on, and uvicorn on them: loopback and a Unix socket, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from edge_agent.config import PORT, AgentConfig
from edge_agent.errors import AgentError, UsageError
from edge_agent.host import memory
from edge_agent.serving.app import App
from edge_agent.serving.engine import Engine
from edge_agent.serving.infer import InferRoute
from edge_agent.serving.tracing import traced
from fleet.protocol.hosts import is_loopback
from fleet.runtimes.cost import IN_FLIGHT
from fleet.serving import BoundedServer, ByteBudget, Shared, hot_protocol, most_connections
from fleet.tracing import OFF, Tracer

BACKLOG = 256  # connections; asyncio accepts as many in one turn, beside those that there are


class AgentServer(BoundedServer):
    """Without uvicorn's signal handling, which would end the process before the spool is closed.

    It gives back what large bodies held: 40 of 2 MB doubled the process for good.
    """

    def __init__(self, config: uvicorn.Config, shared: Shared, give_back: Callable[[], None]) -> None:
        super().__init__(config, shared)
        self._give_back, self._held = give_back, memory.HeldBytes()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the composition root."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """As of every bounded server, with a look at what requests hold."""
        loop = asyncio.get_running_loop()
        if self._held.worth_giving_back(self.shared.budget.taken, loop.time()):
            loop.run_in_executor(None, self._give_back)
        return await super().on_tick(counter)


def make_shared(engine: Engine, tracer: Tracer = OFF) -> Shared:
    """Make what all connections of an agent share: the hot route, the bytes in flight, their number."""
    budget = ByteBudget(IN_FLIGHT)
    return Shared(traced(InferRoute(engine, budget), tracer), budget, most_connections())


def make_server(app: App, shared: Shared, give_back: Callable[[], None] = memory.give_back) -> AgentServer:
    """A server for the hot route, and for `app` beside it.

    Args:
        app: all but the hot route.
        shared: the state of all connections, with the hot route.
        give_back: returns freed memory to the system; it is called in a thread.
    """
    settings = uvicorn.Config(
        app,
        loop="asyncio",
        http=hot_protocol(shared),
        backlog=BACKLOG,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=5,
    )
    return AgentServer(settings, shared, give_back)


def bind_local_api(config: AgentConfig) -> list[socket.socket]:
    """Bind the local API's sockets: loopback, a Unix socket, or both.

    Raises:
        UsageError: an address beyond loopback. AgentError: one cannot be bound; none is then.
    """
    listeners: list[socket.socket] = []
    where = ""
    try:
        if config.port is not None or not config.uds:
            port = PORT if config.port is None else config.port
            where = f"{config.host}:{port}"
            listeners.append(_listen_loopback(config.host, port))
        if config.uds:
            where = config.uds
            listeners.append(_listen_unix(Path(config.uds)))
    except (OSError, UsageError) as error:
        for listener in listeners:
            listener.close()
        if isinstance(error, UsageError):
            raise
        raise AgentError(f"cannot listen on {where}: {error}", hint="choose another with --port or --uds") from error
    return listeners


def address(listener: socket.socket) -> str:
    """`http://127.0.0.1:PORT` or `unix:PATH`."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{Path(listener.getsockname()).absolute()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen_loopback(host: str, port: int) -> socket.socket:
    if not is_loopback(host):
        raise UsageError(f"the local API listens on loopback only, not on {host}", hint="host = 127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Inherited by every connection. asyncio sets it only on sockets that were made with an explicit
    # protocol; without it an answer's second segment waits 40 ms for the client's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _listen_unix(path: Path) -> socket.socket:
    # The lock on the directory says that no other agent serves here: a socket that lies there is a leftover.
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener

"""A real uvicorn on a free loopback port, in a thread with its own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn


@contextlib.contextmanager
def answering(server: Any, loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """Run a `fleet.rpc.server.RpcServer` on the loop of `serving`; gives its "host:port"."""

    async def start() -> tuple[asyncio.Task[None], int]:
        bound, port = server.bind()
        return asyncio.create_task(server.serve(bound)), port

    async def stop(task: asyncio.Task[None]) -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    task, port = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(task), loop).result(60)


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    """Serve an ASGI app; gives its "host:port" and the loop it runs on. `options` are uvicorn's (`ssl_certfile=…`)."""
    listener = socket.create_server(("127.0.0.1", 0))
    # Inherited by every connection, since asyncio sets it only on sockets that it made itself: without it the second
    # piece of every answer waits 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # log_config: uvicorn's own would close every handler of this process, and absl's (with the compiler's converters)
    # closes the stream that was sys.stderr when it was made: pytest's, which then captures nothing any more.
    config = uvicorn.Config(app, log_config=None, log_level="warning", access_log=False, lifespan="off", **options)
    server = uvicorn.Server(config)
    loops: list[asyncio.AbstractEventLoop] = []
    up = threading.Event()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        loops[0].call_soon(up.set)
        await server.serve([listener])

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    up.wait(60)
    try:
        yield "{}:{}".format(*listener.getsockname()), loops[0]
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()

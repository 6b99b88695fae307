"""uvicorn as the hub runs it: the hot route on its listener, and connections that stand still are ended."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from fleet.serving import Shared, hot_protocol, sweep

SWEEP_TICKS = 10  # uvicorn ticks ten times a second


class Server(uvicorn.Server):
    """See the module. `shared` is what the connections share."""

    def __init__(self, config: uvicorn.Config, shared: Shared) -> None:
        super().__init__(config)
        self._shared = shared

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's own; with a sweep of the connections once a second."""
        if counter % SWEEP_TICKS == 0:
            waiting = [one for one in self.server_state.connections if not _uploads(one)]
            sweep(self._shared, waiting, asyncio.get_running_loop().time())
        return await super().on_tick(counter)


def make_server(app: Any, shared: Shared, **settings: Any) -> Server:
    """A server for `app` and the hot route of `shared`; `settings` are uvicorn's."""
    return Server(uvicorn.Config(app, http=hot_protocol(shared), server_header=False, **settings), shared)


def _uploads(connection: Any) -> bool:
    """Whether a body comes that an ASGI application reads: a release may take minutes, and its reader bounds it."""
    cycle = connection.cycle
    return cycle is not None and isinstance(cycle, RequestResponseCycle) and cycle.more_body

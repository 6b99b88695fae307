"""uvicorn as the hub runs it: the hot route on its listener, and connections that stand still are ended."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from cloud_hub.api.bodies import UPLOADS
from fleet.serving import BoundedServer, Shared, hot_protocol


class HubServer(BoundedServer):
    """See the module. `ending` is called once when the server begins to stop."""

    ending: Callable[[], None] = staticmethod(lambda: None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what would go on for ever, then uvicorn's own."""
        self.ending()
        await super().shutdown(sockets)

    def swept(self) -> list[Any]:
        """All but those whose upload is being read: `api.bodies.uploaded` bounds it."""
        return [one for one in super().swept() if not _uploads(one)]


def make_server(app: Any, shared: Shared, **settings: Any) -> HubServer:
    """A server for `app` and the hot route of `shared`; `settings` are uvicorn's."""
    server = HubServer(uvicorn.Config(app, http=hot_protocol(shared), server_header=False, **settings), shared)
    streams = getattr(getattr(app, "state", None), "live", None)
    if streams is not None:
        server.ending = streams.end
    return server


def _uploads(connection: Any) -> bool:
    cycle = connection.cycle
    reads = isinstance(cycle, RequestResponseCycle) and cycle.more_body and not cycle.response_complete
    return reads and bool(cycle.scope.get(UPLOADS))

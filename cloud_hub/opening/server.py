"""uvicorn as the hub runs it: the hot route on its listener, and connections that stand still are ended."""

from __future__ import annotations

from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from fleet.serving import BoundedServer, Shared, hot_protocol


class Server(BoundedServer):
    """See the module."""

    def swept(self) -> list[Any]:
        """All but those that upload."""
        return [one for one in super().swept() if not _uploads(one)]


def make_server(app: Any, shared: Shared, **settings: Any) -> Server:
    """A server for `app` and the hot route of `shared`; `settings` are uvicorn's."""
    return Server(uvicorn.Config(app, http=hot_protocol(shared), server_header=False, **settings), shared)


def _uploads(connection: Any) -> bool:
    """Whether a body comes that an ASGI application reads: a release may take minutes, and its reader bounds it."""
    cycle = connection.cycle
    return cycle is not None and isinstance(cycle, RequestResponseCycle) and cycle.more_body

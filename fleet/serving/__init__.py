"""The hot route: one kind of request that a uvicorn listener answers before ASGI is asked, on agent and hub alike.

port         `HotRoute`, the port that an application implements; `HotRequest` and `Reply`
protocol     uvicorn's httptools protocol class with the branch in it; everything else goes on as ASGI
connections  how many there may be and how long each may take for what; `sweep`
acceptor     a uvicorn server that accepts connections itself, and sweeps them
seldom       a filter for the log, so that nobody can flood it
budget       the bytes of all bodies and unsent answers together
statistics   what is counted of each model, as clients ask for it

Two lines make a server of it::

    shared = Shared(route, ByteBudget(48 << 20), most_connections())
    BoundedServer(uvicorn.Config(app, http=hot_protocol(shared), …), shared)
"""

from fleet.serving.acceptor import HANDSHAKE_S, BoundedServer
from fleet.serving.budget import ByteBudget
from fleet.serving.connections import LIMIT_S, Shared, most_connections, sweep_connections
from fleet.serving.port import BROKEN, JSON, HotRequest, HotRoute, Promise, Reply, error_reply
from fleet.serving.protocol import hot_protocol
from fleet.serving.statistics import Statistics

__all__ = [
    "BROKEN",
    "HANDSHAKE_S",
    "JSON",
    "LIMIT_S",
    "BoundedServer",
    "ByteBudget",
    "HotRequest",
    "HotRoute",
    "Promise",
    "Reply",
    "Shared",
    "Statistics",
    "error_reply",
    "hot_protocol",
    "most_connections",
    "sweep_connections",
]

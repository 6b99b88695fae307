"""Connections of the local API: how many there may be, and how long each may take for what.

uvicorn ends a connection that idles after an answer, and no other: one that never sends a request, or half of one, or
does not read its answer, stays for ever. Here a sweep each second ends those that stand in one phase for too long:

    first   no whole header since the connection was made
    idle    answered; waits for the next request's header, or sends one slowly
    body    the header is here, the body is not
    work    the model's turn: no limit here, see the watchdog and the deadlines
    answer  bytes of the answer are not taken; each one that is begins anew

There is room for `most` connections. A new one takes the place of the one that has been `first` or `idle` for longest,
so that a client that holds connections it does not use keeps nobody out; where all are at work it is 503.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterable
from typing import Any, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

log = logging.getLogger(__name__)

CONNECTIONS = 512
LIMIT_S = {"first": 10.0, "idle": 75.0, "body": 30.0, "answer": 30.0}
_FULL = b'{"error":"all connections of the agent are at work"}'
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_FULL), _FULL)
)


def most() -> int:
    """How many connections fit: half of the files that this process may open at the most."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(CONNECTIONS, soft // 2))


class Phases:
    """Of one connection: the phase that it was last seen in, what tells it from the next one, and since when."""

    def __init__(self, now: float) -> None:
        self.since = now
        self._seen: tuple[str, object, int] = ("first", None, 0)

    def phase(self, cycle: Any, unsent: int) -> str:
        """By uvicorn's request-response cycle (None before the first request) and the bytes still to be sent."""
        return self._look(cycle, unsent)[0]

    def late(self, cycle: Any, unsent: int, now: float) -> str:
        """The phase that has lasted too long, or nothing."""
        found = self._look(cycle, unsent)
        if found[0] != self._seen[0] or found[1] is not self._seen[1] or found[2] != self._seen[2]:
            self._seen, self.since = found, now
        return found[0] if now - self.since > LIMIT_S.get(found[0], float("inf")) else ""

    @staticmethod
    def _look(cycle: Any, unsent: int) -> tuple[str, object, int]:
        if cycle is None:
            return "first", None, 0
        if unsent:  # of a complete answer, too: it may wait in the transport
            return "answer", cycle, unsent
        if cycle.response_complete:
            return "idle", cycle, 0
        return ("body" if cycle.more_body else "work"), cycle, 0


class Bounded(asyncio.Protocol):
    """Before uvicorn's own protocol class; see the module."""

    connections: set[Any]
    transport: asyncio.Transport
    cycle: Any
    loop: asyncio.AbstractEventLoop
    limit = CONNECTIONS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, another one's place if need be."""
        self.phases = Phases(self.loop.time())
        super().connection_made(transport)
        if len(self.connections) > self.limit and not self._make_room():
            self.transport.write(FULL)
            self.transport.close()

    def late(self, now: float) -> str:
        """The phase that has lasted too long, or nothing."""
        return self.phases.late(self.cycle, self.transport.get_write_buffer_size(), now)

    def end(self) -> None:
        """Close at once, whatever is unsent; it counts no more from now on."""
        self.connections.discard(self)
        self.transport.abort()

    def _make_room(self) -> bool:
        others = (one for one in self.connections if one is not self)
        spare = [one for one in others if one.phases.phase(one.cycle, 0) in ("first", "idle")]
        if spare:
            min(spare, key=lambda one: one.phases.since).end()
        return bool(spare)


def protocol() -> type[asyncio.Protocol]:
    """uvicorn's protocol class on h11 or httptools, whichever is installed, with these bounds."""
    return cast(type[asyncio.Protocol], type("Protocol", (Bounded, AutoHTTPProtocol), {"limit": most()}))


def sweep(connections: Iterable[Any], now: float) -> None:
    """End what has taken too long; says so once per sweep, however many there are."""
    ended: dict[str, int] = {}
    for one in list(connections):
        phase = one.late(now)
        if phase:
            one.end()
            ended[phase] = ended.get(phase, 0) + 1
    if ended:
        log.info("connections closed that stood still: %s", ", ".join(f"{n} in {name}" for name, n in ended.items()))

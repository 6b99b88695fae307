"""Connections of a listener: how many there may be, and how long each may take for what.

uvicorn ends a connection that idles after an answer, and no other: one that never sends a request, or half of one, or
does not read its answer, stays for ever. Here a sweep each second ends those that stand in one phase for too long:

    first   no whole header since the connection was made
    idle    answered; waits for the next request's header, or sends one slowly
    body    the header is here, the body is not
    work    the application's turn: no limit here, deadlines are its own
    answer  bytes of the answer are not taken; each one that is begins anew

There is room for `most_connections`. A new one takes the place of the one that has been `first`, or answered, for
longest, so that a client that holds connections it does not use keeps nobody out; where all are at work it is 503.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fleet.serving.budget import ByteBudget
from fleet.serving.port import HotRoute

log = logging.getLogger(__name__)

CONNECTIONS = 512
LIMIT_S = {"first": 10.0, "idle": 75.0, "body": 30.0, "answer": 30.0}
_FULL = b'{"error":"all connections are at work","code":"busy"}'
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_FULL), _FULL)
)


def most_connections() -> int:
    """Return how many connections fit: half of the files that this process may open at the most."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(CONNECTIONS, soft // 2))


class Shared:
    """The state that the connections of one application share; `malformed` counts requests since the last sweep."""

    def __init__(self, route: HotRoute, budget: ByteBudget, limit: int = CONNECTIONS) -> None:
        self.route, self.budget, self.limit = route, budget, limit
        self.malformed = 0


class Phases:
    """Of one connection: the phase that it was last seen in, what tells it from the next one, and since when."""

    def __init__(self, now: float) -> None:
        self.since = now
        self._seen: tuple[str, object, int] = ("first", None, 0)

    def phase(self, cycle: Any, unsent: int) -> str:
        """By the request that came last (None before the first) and the bytes still to be sent."""
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
        if cycle.more_body:  # also of a request that is answered already, whose rest has as much time again
            return "body", cycle, int(cycle.response_complete)
        return ("idle" if cycle.response_complete else "work"), cycle, 0


class BoundedProtocol(HttpToolsProtocol):
    """A connection that takes its place among the others, and counts what its client does not take."""

    shared: Shared
    cycle: Any
    pipeline: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, another one's place if need be."""
        self.phases = Phases(self.loop.time())
        self._unsent = 0  # bytes of answers that are counted in the budget
        super().connection_made(cast(asyncio.Transport, transport))
        if len(self.connections) > self.shared.limit and not self._make_room():
            self.transport.write(FULL)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what was held."""
        self._count_unsent(0)
        super().connection_lost(exc)

    def late(self, now: float) -> str:
        """The phase that has lasted too long, or nothing."""
        return self.phases.late(self.cycle, self.transport.get_write_buffer_size(), now)

    def end(self) -> None:
        """Close at once, whatever is unsent; it counts no more from now on."""
        self.connections.discard(self)
        self.transport.abort()

    def pause_writing(self) -> None:
        """The client does not take its answers: what is unsent counts, and nothing is read before it is gone."""
        super().pause_writing()
        self._count_unsent(self.transport.get_write_buffer_size())
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """See `pause_writing`."""
        super().resume_writing()
        self._count_unsent(0)
        if not self.pipeline:
            self.flow.resume_reading()

    def _make_room(self) -> bool:
        others = [cast(BoundedProtocol, one) for one in self.connections if one is not self]
        # Answered also where the rest of its body is still to come: whoever is refused cannot keep others out.
        spare = [one for one in others if one.cycle is None or one.cycle.response_complete]
        if spare:
            min(spare, key=lambda one: one.phases.since).end()
        return bool(spare)

    def _count_unsent(self, count: int) -> None:
        self.shared.budget.taken += count - self._unsent
        self._unsent = count


def sweep_connections(shared: Shared, connections: Iterable[Any], now: float) -> None:
    """End what has taken too long; says so, and how much was malformed, once per sweep, however many there are."""
    ended: dict[str, int] = {}
    for one in list(connections):
        phase = one.late(now)
        if phase:
            one.end()
            ended[phase] = ended.get(phase, 0) + 1
    if ended:
        log.info("connections closed that stood still: %s", ", ".join(f"{n} in {name}" for name, n in ended.items()))
    if shared.malformed:
        log.info("%d malformed requests were refused", shared.malformed)
        shared.malformed = 0

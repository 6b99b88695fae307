"""The answers of one connection, in the order of their requests.

At most one is made per turn of the event loop, so that a pipeline holds up nobody; what waits is held in one budget for
all connections. `protocol` reads requests, and hands each over as an `Exchange`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from fleet.serving.connections import BoundedProtocol
from fleet.serving.exchange import Exchange
from fleet.serving.port import BROKEN, Promise, Reply, error_reply

log = logging.getLogger(__name__)

JOINED = 64 << 10  # bytes; a larger answer is not copied behind its head
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
RETRY = b"retry-after: 1\r\n"


class AnsweringProtocol(BoundedProtocol):
    """Answers exchanges in turn; `_answered` says whether one was in this turn, `_running` which is at the route."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A new connection."""
        self._answered = self._scheduled = False
        self._running: Exchange | None = None
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what was held; what is being answered gives its own back."""
        if self._running is not None:
            self._running.request.gone = True
        for cycle in {self.cycle, *(cycle for cycle, _ in self.pipeline)}:
            if type(cycle) is Exchange and cycle is not self._running:
                cycle.give_back(self.shared.budget)
        self.pipeline.clear()
        super().connection_lost(exc)

    def _unanswered(self, exchange: Exchange) -> None:
        """More is to come of a body, or the answer is: count what is here, and ask for the rest."""
        budget = self.shared.budget
        count = exchange.size - exchange.held
        if count and exchange.open and not budget.fits(count):
            self._settle(exchange, error_reply(503, "busy", budget.full(count), RETRY))
        elif exchange.reply is None:
            exchange.hold(budget)
            if exchange.expects and exchange.more_body and not exchange.waiting:
                exchange.expects = False
                self.transport.write(CONTINUE)

    def _enter(self, exchange: Exchange) -> None:
        """Make it the latest request; it waits where an earlier one is not answered, or one was in this turn."""
        before, self.cycle = self.cycle, exchange
        busy = before is not None and not before.response_complete
        if busy or self._answered:
            exchange.waiting = True
            self.pipeline.appendleft((exchange, None))
            if not busy:
                self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._next)

    def _next(self) -> None:
        self._scheduled = False
        if self.pipeline and not self.transport.is_closing():
            self._start_asgi_task(*self.pipeline.pop())

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """uvicorn's name for the turn of a request."""
        if type(cycle) is not Exchange:
            super()._start_asgi_task(cycle, app)
            return
        cycle.waiting = False
        if cycle.reply is not None:
            self._send(cycle, cycle.reply)
        elif cycle.more_body:
            self._unanswered(cycle)
        else:
            self._run(cycle)

    def on_response_complete(self) -> None:
        """The next of the pipeline, in the next turn. Idle connections are the sweep's business."""
        self.server_state.total_requests += 1
        flow = self.flow
        if not self.pipeline and not flow.read_paused:
            return  # of nearly all requests
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._schedule()
        elif not flow.write_paused:
            flow.resume_reading()

    def _run(self, exchange: Exchange) -> None:
        self._answered = True
        try:
            found = self.shared.route.answer(exchange.whole() if exchange.parts else exchange.request)
        except Exception:  # the boundary: a fault of the route costs one request
            log.exception("a request of the hot route failed")
            found = BROKEN
        if type(found) is Reply:
            self._send(exchange, found)
            return
        self._running = exchange
        exchange.hold(self.shared.budget)
        if type(found) is Promise:
            found.keep = partial(self._kept, exchange)
        else:
            self._kept(exchange, cast(Awaitable[Reply], found))

    def _kept(self, exchange: Exchange, found: Reply | Awaitable[Reply]) -> None:
        if type(found) is Reply:
            self._running = None
            self._send(exchange, found)
            return
        task = self.loop.create_task(self._later(exchange, cast(Awaitable[Reply], found)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _later(self, exchange: Exchange, answer: Awaitable[Reply]) -> None:
        try:
            reply = await answer
        except Exception:  # the same boundary
            log.exception("a request of the hot route failed")
            reply = BROKEN
        self._running = None
        self._send(exchange, reply)

    def _settle(self, exchange: Exchange, reply: Reply) -> None:
        """An answer that does not wait for the body."""
        exchange.reply = reply
        exchange.parts.clear()
        exchange.request.body = b""
        exchange.give_back(self.shared.budget)
        if exchange.expects and exchange.more_body:
            exchange.keep_alive = exchange.more_body = False  # whether the body still comes, nobody can tell
        if not exchange.waiting:
            self._send(exchange, reply)

    def _send(self, exchange: Exchange, reply: Reply) -> None:
        exchange.response_complete = True
        if exchange.held:
            exchange.give_back(self.shared.budget)
        if self.transport.is_closing():
            return
        status, headers, body = reply
        if self.server_state.default_headers:
            headers += b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        end = b"\r\n" if exchange.keep_alive else b"connection: close\r\n\r\n"
        head = b"%b%bcontent-length: %d\r\n%b" % (STATUS_LINE[status], headers, len(body), end)
        if len(body) <= JOINED:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        if not exchange.keep_alive and not exchange.more_body:
            self.transport.close()
        self.on_response_complete()

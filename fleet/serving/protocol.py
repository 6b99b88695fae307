"""uvicorn's httptools protocol class with a branch: a request of the hot route is answered when its body is complete.

No scope, no task, no queue stands between the parser and the route; what the route leaves alone goes on as ASGI on the
same connection, in order with the rest. Beside uvicorn's own, this class

* answers at most one request per connection and turn of the event loop, so that a pipeline holds up nobody;
* spares a head that its connection has sent before, byte for byte, the parser (see `repeated`);
* counts what it holds (bodies that are not answered, answers that are not taken) in one budget for all connections;
* reads a body whose answer is out already to its end, and a request no further than its headers may reach;
* refuses in JSON, in its turn, what llhttp refuses (two lengths, length and chunks, folded headers, bare line feeds)
  and what it lets pass (see `framing`).

It builds on uvicorn's internals, so uvicorn is pinned to one minor version.
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

from fleet.serving.answering import RETRY, AnsweringProtocol
from fleet.serving.connections import Shared
from fleet.serving.exchange import Exchange
from fleet.serving.framing import HEAD_LIMIT, HEADERS, HeadTooLargeError, endless, faulty, parser_for, too_long
from fleet.serving.port import HotRequest, Reply, error_reply
from fleet.serving.repeated import RepeatedHead, head_of


class HotProtocol(AnsweringProtocol):
    """See the module; `hot_protocol` makes a class of it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A new connection."""
        self._raw = 0  # bytes since the request began, without its body
        self._began = self._offered = 0.0
        self._in_body = False
        self._between, self._messages = True, 0  # the parser is in no message; how many began in what came last
        self._known: RepeatedHead | None = None
        self._kept_with_body = False  # an ASGI request waits for `100 Continue`: only its body keeps the connection
        super().connection_made(transport)
        self._unix = isinstance(transport.get_extra_info("sockname"), str | bytes)

    # ---- what the parser says -----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Feed the parser; nearly everything else happens in its callbacks."""
        self._answered = False
        known = self._known
        if (
            known is not None
            and self._between
            and len(data) == known.whole
            and data.startswith(known.data)
            and self._once_more(known, data)
        ):
            return
        between, self._messages = self._between, 0
        rest, self._raw = data, self._raw + len(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self._malformed(error_reply(405, "method-not-allowed", "this is no proxy"))
                    return
                rest = self._without_offer() + rest[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                large = isinstance(error.__context__, HeadTooLargeError)
                self._malformed(too_long() if large else error_reply(400, "invalid", f"malformed HTTP: {error}"))
                return
        if self._raw > HEAD_LIMIT:
            size = self.cycle.size if type(self.cycle) is Exchange else HEAD_LIMIT
            found = endless(self._raw, size if self._in_body else None)
            if found is not None:
                self._malformed(found)
                return
        cycle = self.cycle
        if type(cycle) is not Exchange:
            return
        if cycle.more_body and not cycle.response_complete:
            self._unanswered(cycle)
        elif between and self._between and self._messages == 1 and cycle.keep_alive:
            self._known = head_of(data, cycle.request, cycle.size)

    def _once_more(self, head: RepeatedHead, data: bytes) -> bool:
        """Take a whole request with a known head; False where it has to go by the parser all the same."""
        if self.transport.is_closing():
            return False
        self._raw, self._began = 0, self.loop.time()
        request = head.request(self._began)
        found, budget = self.shared.route.begin(request), self.shared.budget
        if found is None:
            return False
        if self.cycle.response_complete and type(found) is int and head.size <= found and budget.fits(head.size):
            exchange = self.cycle = Exchange(request, found, keep_alive=True)  # nearly always: it waits for no other
            exchange.more_body, run = False, self._run
        else:
            exchange, run = self._entered(request, head.size, found, keep=True), self._whole
        if exchange.reply is None:  # the size has been checked
            request.body, exchange.size = data[len(head.data) :], head.size
        run(exchange)
        return True

    def _without_offer(self) -> bytes:
        """The head of a request that offers another protocol, for a parser that reads on as HTTP/1.1.

        The one that met the offer takes the body for that protocol's.
        """
        head = b"%b %b HTTP/1.1\r\n" % (self.parser.get_method(), self.url)
        head += b"".join(b"%b: %b\r\n" % line for line in self.headers if line[0] != b"upgrade") + b"\r\n"
        self.parser, self._offered = parser_for(self), self._began
        return head

    def on_message_begin(self) -> None:
        """A new request's first byte. uvicorn's scope is made when it is known to be needed."""
        self._began, self._offered = self._offered or self.loop.time(), 0.0
        self._in_body = self._between = False
        self._messages += 1
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are read and forgotten."""
        if self._in_body:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > HEADERS:
            raise HeadTooLargeError

    def on_headers_complete(self) -> None:
        """The branch."""
        if self.parser.should_upgrade():
            return  # see `_without_offer`
        self._in_body = True
        headers = dict(self.headers)
        request = HotRequest(self.parser.get_method(), self.url, headers, self._began, self._unix)
        version = self.parser.get_http_version()
        found = faulty(self.url, self.headers, headers, self._raw, version)
        # Behind a head that is refused, where the next request begins is not certain.
        keep = found is None and version != "1.0" and self.parser.should_keep_alive()
        if self.transport.is_closing():  # what follows a request that ended the connection
            self.cycle = Exchange(request, 0, keep_alive=False)
            self.cycle.response_complete = True
            return
        declared = headers.get(b"content-length")
        size = int(declared) if declared is not None and found is None else 0
        if self._begun(request, size, keep=keep, refused=found, expects=self.expect_100_continue) is None:
            self._go_on_as_asgi()

    def _begun(
        self, request: HotRequest, size: int, *, keep: bool, refused: Reply | None = None, expects: bool = False
    ) -> Exchange | None:
        """The exchange of a request whose headers are here; None where the route leaves it to ASGI.

        Args:
            size: bytes that it announces.
            refused: its answer, where its head is no good.
        """
        found = self.shared.route.begin(request) if refused is None else refused
        return None if found is None else self._entered(request, size, found, keep=keep, expects=expects)

    def _entered(
        self, request: HotRequest, size: int, found: int | Reply, *, keep: bool, expects: bool = False
    ) -> Exchange:
        """The exchange of a request for which the route has `found` a limit or an answer, in its place among others."""
        if type(found) is int:
            found = self._check_length(request, size, found)
        exchange = Exchange(request, found if type(found) is int else 0, keep_alive=keep)
        exchange.expects = expects
        self._enter(exchange)
        if type(found) is not int:
            self._settle(exchange, cast(Reply, found))
        return exchange

    def _check_length(self, request: HotRequest, size: int, limit: int) -> int | Reply:
        budget = self.shared.budget
        if size > limit:
            return self.shared.route.too_large(request, size)
        return limit if budget.fits(size) else error_reply(503, "busy", budget.full(size), RETRY)

    def _go_on_as_asgi(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        self._kept_with_body = expects and self.cycle.keep_alive
        if expects:  # an answer before the body ends the connection: whether the body still comes, nobody can tell
            self.cycle.keep_alive = False

    def _body_comes(self) -> None:
        """The body of an ASGI request comes, so that the connection can go on behind it."""
        if self._kept_with_body and not self.cycle.response_started:
            self.cycle.keep_alive = True
        self._kept_with_body = False

    def _should_upgrade(self) -> bool:
        return False

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._raw -= len(body)
        exchange = self.cycle
        if type(exchange) is not Exchange:
            self._body_comes()
            super().on_body(body)
        elif exchange.reply is None and not exchange.response_complete and not exchange.add(body):
            self._settle(exchange, self.shared.route.too_large(exchange.request, exchange.size))

    def on_message_complete(self) -> None:
        """A whole request is here."""
        if self.parser.should_upgrade():
            return
        self._raw, self._between = 0, True
        exchange = self.cycle
        if type(exchange) is Exchange:
            self._whole(exchange)
        else:
            self._body_comes()
            super().on_message_complete()
            exchange.more_body = False  # which uvicorn leaves as it is where the answer is out

    def _whole(self, exchange: Exchange) -> None:
        """Nothing more is to come of a request."""
        exchange.more_body = False
        if exchange.response_complete:
            if not exchange.keep_alive:
                self.transport.close()
        elif exchange.waiting:
            self.flow.pause_reading()  # enough of this pipeline
            self._unanswered(exchange)
        elif exchange.reply is None:
            self._run(exchange)

    def _malformed(self, reply: Reply) -> None:
        """Answer and close, after what came before is answered."""
        self.shared.malformed += 1
        self.flow.pause_reading()
        broken = self.cycle if self.cycle is not None and self.cycle.more_body else None
        if type(broken) is Exchange and not broken.response_complete:
            broken.keep_alive = broken.more_body = False
            self._settle(broken, reply)
            return
        if broken is not None:  # its answer has begun, or an ASGI application waits for the rest
            broken.disconnected = True
            broken.message_event.set()
            if type(broken) is Exchange or self.pipeline or broken.response_started:
                self.transport.close()
                return
            broken.response_complete = True
        exchange = Exchange(HotRequest(b"", b"", {}, self._began, self._unix), 0, keep_alive=False)
        exchange.more_body = False
        self._enter(exchange)
        self._settle(exchange, reply)


def hot_protocol(shared: Shared) -> type[HotProtocol]:
    """uvicorn's `http=` for the connections that share `shared`."""
    return type("HotProtocol", (HotProtocol,), {"shared": shared})

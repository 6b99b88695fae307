"""A real listener in this event loop, with a hot route that does as it is told, and raw connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import uvicorn

from fleet.serving import (
    BoundedServer,
    ByteBudget,
    Promise,
    Reply,
    Shared,
    error_reply,
    hot_protocol,
    sweep_connections,
)

LIMIT = 1 << 20


class Route:
    """`POST /hot` says what it was asked; `/slow` waits for `open`, `/broken` raises, `/no` is refused at once.

    `/turn` is answered by a promise that is kept in the next turn, `/turn-slow` by one that needs a task then.
    """

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.began: list[float] = []
        self.asked: list[bytes] = []

    def begin(self, request):
        if request.method != b"POST" or not request.target.startswith(
            (b"/hot", b"/slow", b"/broken", b"/no", b"/turn")
        ):
            return None
        self.began.append(request.began)
        return error_reply(403, "forbidden", "no") if request.target == b"/no" else LIMIT

    def answer(self, request):
        self.asked.append(request.target)
        if request.target == b"/broken":
            raise KeyError("a fault of ours")
        reply = Reply(200, b"x-hot: 1\r\n", b"%b %b" % (request.target, request.body))
        if request.target.startswith(b"/turn"):
            promise = Promise()
            found = self._later(reply) if b"slow" in request.target else reply
            asyncio.get_running_loop().call_soon(lambda: promise.keep(found))
            return promise
        return self._later(reply) if request.target.startswith(b"/slow") else reply

    def too_large(self, request, size):
        return error_reply(413, "too-large", f"{size} bytes")

    async def _later(self, reply):
        await self.open.wait()
        return reply


async def app(scope, receive, send):
    """Everything else: says path and body; `/early` is answered without a look at its body."""
    body = b""
    while scope["path"] != "/early":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    body = scope["path"].encode() + b" " + body
    headers = [(b"content-length", b"%d" % len(body)), (b"x-method", scope["method"].encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def text(self) -> str:
        """Status and body of the next answer."""
        status, _, body = await self.answer()
        return f"{status} {body.decode()}"

    async def ended(self) -> bool:
        """Waits for the end of the connection, without another byte before it."""
        with contextlib.suppress(ConnectionResetError):
            assert await self.reader.read() == b""
        return True

    def close(self) -> None:
        self.writer.transport.abort()


class Listener:
    """The server, and what its connections share."""

    def __init__(self, where, route: Route, shared: Shared, server: uvicorn.Server) -> None:
        self._where, self.route, self.shared = where, route, shared
        self.connections = server.server_state.connections

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection(*self._where))

    def later(self, seconds: float) -> None:
        """A sweep now, and one when so much time has passed."""
        now = asyncio.get_running_loop().time()
        sweep_connections(self.shared, self.connections, now)
        sweep_connections(self.shared, self.connections, now + seconds)


@contextlib.asynccontextmanager
async def listening(route=None, *, budget: int = 8 << 20, connections: int = 64, tls: ssl.SSLContext | None = None):
    """`route` by default is a `Route`, whose slow requests are answered at the end."""
    route = route or Route()
    shared = Shared(route, ByteBudget(budget), connections)
    config = uvicorn.Config(
        app,
        http=hot_protocol(shared),
        lifespan="off",
        log_config=None,
        server_header=False,
        date_header=False,
        access_log=False,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config.load()
        config.ssl = tls
        server = BoundedServer(config, shared)
        task = asyncio.create_task(server._serve([listener]))  # `serve` would take the signals of the test run
        async with asyncio.timeout(60):
            yield Listener(listener.getsockname(), route, shared, server)
        if isinstance(route, Route):
            route.open.set()
        for one in list(server.server_state.connections):
            one.end()
        server.should_exit = True
        await task


def noted(route) -> list:
    """The requests that `route` is asked from now on."""
    seen, answer = [], route.answer
    route.answer = lambda request: (seen.append(request), answer(request))[1]
    return seen


async def until(condition) -> None:
    """Wait for it, a turn of the event loop at a time."""
    while not condition():
        await asyncio.sleep(0)


def run(scenario, **options):
    """Run `scenario(listener)`."""

    async def whole():
        async with listening(**options) as listener:
            await scenario(listener)

    asyncio.run(whole())


def post(path: str, body: bytes = b"", *lines: str, chunks: bool = False, host: str = "a") -> bytes:
    """A request."""
    how = b"transfer-encoding: chunked" if chunks else b"content-length: %d" % len(body)
    more = "".join(f"{line}\r\n" for line in lines).encode()
    head = b"POST %b HTTP/1.1\r\nhost: %b\r\n" % (path.encode(), host.encode())
    return head + b"%b%b\r\n\r\n" % (more, how) + body

"""A real HTTPS server on loopback whose answers a test scripts, byte by byte if need be."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from cloud_hub.identity.ca import Authority, create_authority

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Got(Struct):
    """A request: its first line, its headers in lower case, its body."""

    line: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """The requests that the server got, and its answers: `answers` one after the other, the last one again and again.

    An answer is bytes to send before the connection ends, or a function of the request that gives them. After bytes
    that end with `HANG` it keeps the connection open until the client leaves.
    """

    HANG = b"<hang>"

    def __init__(self, port: int, ca: Path) -> None:
        self.port, self.ca = port, ca
        self.got: list[Got] = []
        self.answers: list[bytes | Callable[[Got], bytes]] = [OK]
        self.came = threading.Event()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/hook"

    def answer_to(self, request: Got) -> bytes:
        self.got.append(request)
        self.came.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, bytes) else answer(request)


@contextmanager
def receiver(directory: Path, *names: str, ahead_s: float = 0.0) -> Iterator[Receiver]:
    """A server whose certificate is valid for `names` (by default 127.0.0.1), until the end of the block.

    `ahead_s` is how many seconds its authority's clock is ahead of this machine's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    now = time.time() + ahead_s
    authority = Authority(create_authority(now))
    pair = authority.server(names or ("127.0.0.1",), now)
    ca, chain = directory / "ca.pem", directory / "server.pem"
    ca.write_bytes(authority.ca_pem)
    chain.write_bytes(pair.key + pair.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = Receiver(0, ca)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:]) if name}
            body = await reader.readexactly(int(headers["content-length"]))
            answer = await asyncio.to_thread(made.answer_to, Got(head[0], headers, body))
            writer.write(answer.removesuffix(Receiver.HANG))
            await writer.drain()
            if answer.endswith(Receiver.HANG):
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            writer.transport.abort()

    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context), loop).result()
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

"""A TCP proxy on loopback between a device and its hub, which spoils what the hub says by a seeded plan."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator

from msgspec import Struct

CHUNK = 16 << 10
HEAD = 250  # more than the headers of an answer have
_BLOB = re.compile(rb"GET \S*/blobs/([0-9a-f]{64}) ")


class Plan(Struct, frozen=True, kw_only=True):
    """The fate of each piece of at most 16 KiB of an answer.

    `cut`, `stall`, `reset` and `flip` (of one bit) are probabilities for pieces of blobs; other answers are hit a
    quarter as often, and the first bit is turned for certain. `slow` bytes of each connection's blobs come at
    64 kbit/s. `instead` is sent in place of every answer to a request for a blob, again and again with `endless`. With
    `everywhere` those two are not for blobs alone. With `drip_s` every byte comes alone; of every other blob the
    first `HEAD` bytes come at once. The first answer that is for no blob ends at its middle with `halved`.
    """

    cut: float = 0.0
    stall: float = 0.0
    reset: float = 0.0
    flip: float = 0.0
    delay_s: float = 0.0
    slow: int = 0
    drip_s: float = 0.0
    instead: bytes = b""
    endless: bool = False
    everywhere: bool = False
    halved: bool = False


class Proxy:
    """Counts, over all connections: bytes of answers to requests for blobs, which blobs, and how often it struck."""

    def __init__(self, upstream: tuple[str, int], plan: Plan, seed: int) -> None:
        self._upstream, self._plan, self._rng = upstream, plan, random.Random(seed)
        self._lock = threading.Lock()
        self.over = threading.Event()
        self.blob_bytes = self.struck = self.asked = 0
        self.blobs: set[str] = set()

    def strike(self, probability: float, blob: bool) -> bool:
        """One draw of the plan."""
        with self._lock:
            hit = self._rng.random() < (probability if blob else probability / 4)
            self.struck += hit
            return hit

    def count(self, size: int) -> None:
        with self._lock:
            self.blob_bytes += size

    def flipped(self, piece: bytes) -> bytes:
        """The piece with one bit turned."""
        with self._lock:
            at, bit = self._rng.randrange(len(piece)), self._rng.randrange(8)
        return piece[:at] + bytes([piece[at] ^ 1 << bit]) + piece[at + 1 :]

    def serve(self, client: socket.socket) -> None:
        """One connection of the device, to its end."""
        with client, contextlib.suppress(OSError), socket.create_connection(self._upstream, timeout=30) as hub:
            hub.settimeout(None)
            _Connection(self, self._plan, client, hub).run()


class _Connection:
    def __init__(self, proxy: Proxy, plan: Plan, client: socket.socket, hub: socket.socket) -> None:
        self._proxy, self._plan, self._client, self._hub = proxy, plan, client, hub
        self._blob = False
        self._slow_left, self._head_left = plan.slow, 0

    def run(self) -> None:
        threading.Thread(target=self._down, daemon=True).start()
        while asked := self._client.recv(1 << 16):
            if asked.startswith((b"GET ", b"POST ")):
                named = _BLOB.match(asked)
                self._blob = named is not None
                if named:
                    self._proxy.blobs.add(named[1].decode())
                    self._head_left = HEAD * (self._proxy.asked % 2)
                    self._proxy.asked += 1
            if self._plan.instead and (self._blob or self._plan.everywhere):
                self._lie()
                return
            self._hub.sendall(asked)

    def _lie(self) -> None:
        self._proxy.strike(1.0, True)
        self._client.sendall(self._plan.instead)
        while self._plan.endless and not self._proxy.over.is_set():
            self._client.sendall(bytes(CHUNK))

    def _down(self) -> None:
        with contextlib.suppress(OSError):
            while piece := self._hub.recv(CHUNK):
                if not self._pass_on(piece):
                    break
        for end in (self._client, self._hub):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, piece: bytes) -> bool:
        """False when the connection ends here."""
        plan, blob, proxy = self._plan, self._blob, self._proxy
        if plan.cut and proxy.strike(plan.cut, blob):
            return False
        if plan.stall and proxy.strike(plan.stall, blob):
            proxy.over.wait(1.0)  # until the device has given up
            return False
        if plan.reset and proxy.strike(plan.reset, blob):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._client.shutdown(socket.SHUT_RD)  # else the thread that reads would keep it open
            self._client.close()
            return False
        if plan.halved and not blob and not proxy.struck:
            proxy.strike(1.0, True)
            self._client.sendall(piece[: len(piece) // 2])
            return False
        if plan.delay_s:
            proxy.strike(1.0, True)
            proxy.over.wait(plan.delay_s)
        if plan.flip and proxy.strike(1.0 if blob and not proxy.struck else plan.flip, blob):
            piece = proxy.flipped(piece)
        if plan.drip_s and blob:
            head, piece = piece[: self._head_left], piece[self._head_left :]
            self._head_left -= len(head)
            self._client.sendall(head)
            proxy.count(len(head))
        step = 1 if plan.drip_s and blob else 800 if self._slow_left > 0 and (blob or plan.everywhere) else CHUNK
        for start in range(0, len(piece), step):
            self._client.sendall(piece[start : start + step])
            if blob:
                proxy.count(len(piece[start : start + step]))
            if step == 1:
                proxy.strike(1.0, True)
                proxy.over.wait(plan.drip_s)
            elif step == 800:
                self._slow_left -= step
                proxy.strike(1.0, True)
                proxy.over.wait(step / 8000)  # 64 kbit/s
        return True


@contextlib.contextmanager
def spoiled(url: str, plan: Plan, seed: int) -> Iterator[tuple[str, Proxy]]:
    """The hub at `url` behind a proxy with `plan`; gives the address to use instead."""
    host, _, port = url.removeprefix("http://").partition(":")
    proxy = Proxy((host, int(port)), plan, seed)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=proxy.serve, args=(client,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", proxy
        finally:
            proxy.over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)

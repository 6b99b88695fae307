"""A hub's signed files over real HTTP, from memory: what a device pulls, without the hub behind it.

Each stage is one state of the same repository, below its own prefix: `http://127.0.0.1:PORT/<stage>`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fleet.protocol.codec import encode_json
from fleet.protocol.messages import DeviceMe, NonceResponse, TokenResponse

Files = Mapping[str, bytes]
Heard = Callable[[str], None]


class StaticHub:
    """`stages`: name → files by key (`tuf/metadata/…`, `blobs/<sha256>`). `heard` is told every path asked for."""

    def __init__(self) -> None:
        self.stages: dict[str, Files] = {}
        self.heard: Heard = lambda path: None
        self.url = ""

    def answer(self, method: str, path: str) -> bytes | None:
        """The body for a request; None when there is no such thing."""
        stage, _, key = path.lstrip("/").partition("/")
        if (method, key) == ("POST", "device/nonce"):
            return encode_json(NonceResponse(nonce="n" * 32, expires_in_s=60))
        if (method, key) == ("POST", "device/token"):
            return encode_json(TokenResponse(token="t" * 32, expires_in_s=3600))
        if (method, key) == ("GET", "device/me"):
            return encode_json(DeviceMe(device_id="cam-1", channel="stable"))
        return self.stages.get(stage, {}).get(key)


@contextlib.contextmanager
def serving(
    hub: StaticHub, *, address: tuple[str, int] = ("127.0.0.1", 0), congestion: str = ""
) -> Iterator[StaticHub]:
    """Serve in threads, on a free loopback port if not told; `congestion`: TCP's control, else the system's."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            hub.heard(self.path)
            self._send(hub.answer("GET", self.path))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self._send(hub.answer("POST", self.path))

        def _send(self, data: bytes | None) -> None:
            first, status = 0, 200 if data is not None else 404
            data = data or b""
            asked = self.headers.get("Range", "")
            if status == 200 and asked.startswith("bytes="):
                first, status = int(asked.removeprefix("bytes=").partition("-")[0]), 206
            with contextlib.suppress(ConnectionError):  # a killed agent hangs up
                self.send_response(status)
                if status == 206:
                    self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - first))
                self.end_headers()
                self.wfile.write(data[first:])

        def log_message(self, *arguments: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle()

    with ThreadingHTTPServer(address, Handler) as server:
        server.daemon_threads = True
        if congestion:
            server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        hub.url = f"http://{address[0]}:{server.server_address[1]}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join(10)

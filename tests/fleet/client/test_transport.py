from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from fleet.client.transport import HttpTransport
from fleet.errors import NotFoundError, UnreachableError, UsageError


class _Echo(http.server.BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(201)
        self.send_header("X-Method", self.command)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", "http://elsewhere.invalid/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_is_streamed_and_headers_come_in_lower_case(address: str, tmp_path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * 100_000)
    with file.open("rb") as body:
        answer = HttpTransport(address).send("PUT", "/b", body=body, headers={"content-length": "100000"}, timeout=5)
    assert (answer.status, answer.headers["x-method"], answer.body) == (201, "PUT", b"x" * 100_000)


def test_redirects_are_not_followed(address: str) -> None:
    assert HttpTransport(address).send("GET", "/", body=None, headers={}, timeout=5).status == 302


def test_nobody_there_is_unreachable_with_a_hint() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening: refuses
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="refused") as caught:
            HttpTransport(url).send("GET", "/x", body=None, headers={}, timeout=5)
    assert "cloud-hub serve" in caught.value.hint


def test_a_wrong_address_and_a_missing_ca_are_told_at_once(tmp_path) -> None:
    with pytest.raises(UsageError):
        HttpTransport("hub.example")
    with pytest.raises(NotFoundError):
        HttpTransport("https://hub.example", ca=tmp_path / "no.pem")

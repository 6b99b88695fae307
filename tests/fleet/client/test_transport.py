from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.client.transport import HttpTransport
from fleet.errors import NotFoundError, UnreachableError, UsageError
from tests.support.https import receiver


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
    (tmp_path / "words.pem").write_text("words")
    with pytest.raises(UsageError, match="holds no certificate"):
        HttpTransport("https://hub.example", ca=tmp_path / "words.pem")


def hint_of(url: str, ca: Path | None) -> str:
    with pytest.raises(UnreachableError) as caught:
        HttpTransport(url, ca=ca).send("GET", "/x", body=None, headers={}, timeout=5)
    return caught.value.hint


def test_a_hub_that_cannot_be_trusted_says_what_to_do_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    year_s = 366 * 86_400
    with receiver(tmp_path / "a") as there, receiver(tmp_path / "b") as other:
        assert "fleet login URL --token T --ca" in hint_of(there.url, None)
        assert f"another hub than that of {other.ca} answers there" in hint_of(there.url, other.ca)
    with receiver(tmp_path / "ahead", ahead_s=year_s) as ahead:
        assert "this machine's clock says" in hint_of(ahead.url, ahead.ca)
    found = socket.getaddrinfo("127.0.0.1", 80)
    with receiver(tmp_path / "named", "hub.example") as named, monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda host, port, *_: [(*found[0][:4], ("127.0.0.1", port))])
        assert "`hostnames`" in hint_of(named.url.replace("127.0.0.1", "another.example"), named.ca)


def test_a_name_that_nobody_knows_and_a_port_without_tls_are_told_apart(address: str) -> None:
    assert "check the address" in hint_of("http://hub.invalid", None)
    assert "does not speak TLS" in hint_of(address.replace("http://", "https://"), None)

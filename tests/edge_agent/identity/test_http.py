"""The agent's reading of the hub's answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import urllib3

from edge_agent.errors import UnreachableError
from edge_agent.identity.enroll import enroll
from edge_agent.identity.http import HubHttp, WholeResponse
from edge_agent.update.messages import LookRequest
from edge_agent.update.worker.resolve_targets import me
from tests.support.agent_process import enrolled
from tests.support.device import claim, listening
from tests.support.hub import make_hub


class Drip:
    """An answer that never ends, byte by byte."""

    def __init__(self, piece: bytes = b"x") -> None:
        self.piece, self.given = piece, 0

    def read1(self, amount: int) -> bytes:
        self.given += 1
        return self.piece[:amount]


def test_a_hub_that_drips_is_left(tmp_path: Path) -> None:
    hub = HubHttp(enrolled(tmp_path / "agent"))
    with pytest.raises(UnreachableError, match="/device/me took over"):
        hub._whole(Drip(), "/device/me", 0.005, 1 << 40)  # type: ignore[arg-type]


def test_no_more_is_read_than_an_answer_may_have(tmp_path: Path) -> None:
    hub, endless = HubHttp(enrolled(tmp_path / "agent")), Drip(b"x" * 1000)
    assert len(hub._whole(endless, "/device/me", 60.0, 2500)) == 2501  # type: ignore[arg-type]
    assert endless.given == 3


def test_an_answer_that_breaks_off_is_no_answer(tmp_path: Path) -> None:
    class Broken(Drip):
        def read1(self, amount: int) -> bytes:
            raise urllib3.exceptions.ProtocolError("gone")

    with pytest.raises(UnreachableError, match="broke off"):
        HubHttp(enrolled(tmp_path / "agent"))._whole(Broken(), "/x", 1.0, 10)  # type: ignore[arg-type]


def test_one_connection_serves_many_calls(tmp_path: Path) -> None:
    hub = make_hub(tmp_path, start=time.time())
    with listening(hub, tls=True) as url:
        enroll(url, claim(hub), tmp_path / "agent", name="cam-1", agent="test", hardware={})
        http = HubHttp(tmp_path / "agent")
        for _ in range(5):
            assert http.request("GET", "/device/me").status == 200
        pool = http._pool.connection_from_url(url)
        assert (pool.num_connections, pool.num_requests) == (1, 7)  # nonce, token, five
        pool.close()  # a hub waits for its connections before it ends


@contextmanager
def answering(content_type: str, body: bytes) -> Iterator[str]:
    """Somebody at a hub's place who answers every POST alike; gives the address."""

    class Portal(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Portal) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_login_page_is_no_answer_and_says_what_may_be_wrong(tmp_path: Path) -> None:
    with answering("text/html; charset=utf-8", b"<html>Welcome, please log in</html>") as url:
        with pytest.raises(UnreachableError, match="a web page came") as caught:
            HubHttp(enrolled(tmp_path / "agent", hub=url)).request("GET", "/device/me")
        assert "login" in caught.value.hint


@pytest.mark.parametrize("body", [b"", b'{"nonce": "ab', b"{}", b"null", b"\xff\xfe"])
def test_an_answer_that_no_hub_gives_is_no_answer(tmp_path: Path, body: bytes) -> None:
    with answering("application/json", body) as url:
        with pytest.raises(UnreachableError, match="the answer to /device/nonce: ") as caught:
            HubHttp(enrolled(tmp_path / "agent", hub=url)).request("GET", "/device/me")
        assert "asked again" in caught.value.hint


def test_what_the_hub_says_of_a_device_is_read_or_no_answer() -> None:
    class Hub:
        def request(self, *_: object, **__: object) -> WholeResponse:
            return WholeResponse(status=200, headers={}, data=b'{"device_id": ')

    with pytest.raises(UnreachableError, match="the answer to /device/me: "):
        me(Hub(), LookRequest(device_id="d", channel="stable", kinds=("onnx",)))

"""First contact: the pin comes before the secret, and a crash in the middle costs nothing."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import msgspec
import pytest

from edge_agent.errors import AgentError, ConflictError, UsageError
from edge_agent.identity.enroll import enroll, load_enrollment
from edge_agent.identity.http import HubHttp
from fleet.protocol.messages import TrustBundle
from tests.support.device import claim, listening
from tests.support.hub import HubFixture, make_hub


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    return make_hub(tmp_path)


def join(url: str, token: str, directory: Path, name: str = "dev-1"):
    return enroll(url, token, directory, name=name, agent="test", hardware={})


def test_enrolment_is_idempotent_for_the_same_key(hub: HubFixture, tmp_path: Path) -> None:
    token, directory = claim(hub), tmp_path / "agent"
    with listening(hub) as url:
        first = join(url, token, directory)
        (directory / "identity" / "enrollment.json").unlink()  # killed before the last file was written
        assert join(url, token, directory) == first == load_enrollment(directory)
        with pytest.raises(ConflictError):
            join(url, token, tmp_path / "other")
    assert (directory / "identity" / "device.key").stat().st_mode & 0o777 == 0o600


def test_calls_renew_their_token_when_it_is_refused(hub: HubFixture, tmp_path: Path) -> None:
    with listening(hub) as url:
        join(url, claim(hub), tmp_path / "agent")
        calls = HubHttp(tmp_path / "agent")
        assert calls.request("GET", "/device/me").status == 200
        hub.clock.advance(7200)
        assert calls.request("GET", "/device/me").status == 200


def test_another_hub_hears_no_secret(hub: HubFixture, tmp_path: Path) -> None:
    token, asked = claim(hub), []

    class Impostor(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.as_string()))
            body = msgspec.json.encode(TrustBundle(root=b"{}", ca=b"another"))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Impostor)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(AgentError, match="pin") as caught:
            join(f"http://127.0.0.1:{server.server_port}", token, tmp_path / "agent")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [path for path, _ in asked] == ["/enroll/trust"] and caught.value.exit_code == 4
    assert token.split(".")[2] not in str(asked)
    assert not (tmp_path / "agent" / "identity" / "enrollment.json").exists()


@pytest.mark.parametrize("url", ["http://hub.example", "ftp://127.0.0.1", "127.0.0.1"])
def test_plain_http_is_for_loopback_only(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        join(url, f"el1.a.b.{'0' * 64}", tmp_path)


@pytest.mark.parametrize("token", ["", "el1.a.b", "el2.a.b." + "0" * 64, "el1.a.b.short"])
def test_what_is_no_claim_token_is_refused(token: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a claim token"):
        join("http://127.0.0.1:1", token, tmp_path)

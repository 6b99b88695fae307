"""First contact: the pin comes before the secret, and a crash in the middle costs nothing."""

from __future__ import annotations

import http.server
import io
import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from edge_agent.config import load_config
from edge_agent.errors import AgentError, ConflictError, IdentityError, UsageError
from edge_agent.host.clock import FILE, TimeFloor
from edge_agent.host.lock import agent_lock
from edge_agent.identity import enroll as module
from edge_agent.identity.enroll import enroll, load_enrollment
from edge_agent.identity.http import HubHttp
from edge_agent.update.messages import LookRequest, LookResult, Message
from edge_agent.update.worker.process import Session
from fleet.protocol.messages import TrustBundle
from tests.support.device import claim, listening
from tests.support.hub import START, HubFixture, make_hub


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
        with pytest.raises(ConflictError, match="used by another key") as caught:
            join(url, token, tmp_path / "other")
        assert caught.value.hint == "make one token per device"  # the hub's own
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


def test_the_first_certificate_gives_a_moment_that_has_passed(tmp_path: Path) -> None:
    """A clock that is lost before the first look neither makes old metadata good nor cuts the device off."""
    hub, directory = make_hub(tmp_path, start=time.time()), tmp_path / "agent"
    with listening(hub, tls=True) as url:
        join(url, claim(hub), directory)
        assert 0 <= time.time() - TimeFloor(directory / FILE).value < 2 * 86_400
        calls = HubHttp(directory, clock=lambda: 0.0)
        assert calls.request("GET", "/device/me").status == 200
        asked, said = LookRequest(device_id="dev-1", channel="stable", kinds=("onnx",)), io.BytesIO()
        Session(load_config(directory), [msgspec.json.encode(asked)], said, clock=lambda: 0.0).run()
        calls._pool.clear()
    saw = msgspec.json.decode(said.getvalue().splitlines()[0], type=Message)
    assert isinstance(saw, LookResult) and saw.looked.problem == "clock-untrusted"


def test_a_hub_whose_clock_runs_ahead_makes_no_floor_ahead(hub: HubFixture, tmp_path: Path) -> None:
    with listening(hub) as url:
        enroll(url, claim(hub), tmp_path / "a", name="a", agent="test", hardware={}, clock=lambda: START - 86_400.0)
    assert TimeFloor(tmp_path / "a" / FILE).value == START - 86_400.0


def test_two_enrolments_or_one_beside_an_agent_do_not_mix(hub: HubFixture, tmp_path: Path) -> None:
    directory = tmp_path / "agent"
    directory.mkdir()
    with listening(hub) as url, agent_lock(directory), pytest.raises(ConflictError, match="another agent runs"):
        join(url, claim(hub), directory)
    assert list((directory / "identity").iterdir()) == []


def test_the_folders_are_on_the_disk_before_the_hub_hears_of_the_key(hub: HubFixture, tmp_path: Path, monkeypatch):
    synced: list[Path] = []
    fsync, post = os.fsync, module._post

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def asked(*arguments):
        assert {tmp_path, tmp_path / "new", tmp_path / "new" / "agent"} <= set(synced)
        return post(*arguments)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(module, "_post", asked)
    with listening(hub) as url:
        join(url, claim(hub), tmp_path / "new" / "agent")


def test_a_certificate_for_another_key_is_not_kept(hub: HubFixture, tmp_path: Path, monkeypatch) -> None:
    with listening(hub) as url:
        join(url, claim(hub), tmp_path / "one")
        wrong = (tmp_path / "one" / "identity" / "device.crt").read_text()
        post = module._post
        lying = lambda *arguments: msgspec.structs.replace(post(*arguments), certificate=wrong)  # noqa: E731
        monkeypatch.setattr(module, "_post", lying)
        with pytest.raises(IdentityError, match="another key"):
            join(url, claim(hub), tmp_path / "two", "dev-2")
    assert {path.name for path in (tmp_path / "two" / "identity").iterdir()} == {"device.key"}

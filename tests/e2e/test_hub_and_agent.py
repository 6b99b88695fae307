"""A hub and an agent as an operator starts them: two processes, a broker, and nothing lost between them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent import client
from edge_agent.errors import AgentError
from fleet.protocol.manifest import encode_manifest
from tests.support import models
from tests.support.agent_process import ROOT, running

pytestmark = pytest.mark.e2e

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("EDGELOOP_")}
X = np.array([[9, 0, 0, 0]], np.float32)
WAIT_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**ENVIRONMENT, "EDGELOOP_PASSPHRASE": "secret"},
        capture_output=True, text=True, timeout=WAIT_S, check=False, stdin=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(look: Callable[[], Any], what: str) -> Any:
    """The first true answer of `look`, which asks a process again and again."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: {found!r}"
        time.sleep(0.02)


class HubProcess:
    """`cloud-hub serve` that can be killed and started again."""

    def __init__(self, base: Path) -> None:
        self.base, self.directory = base, base / "hub"
        self.port, self.broker_port = free_port(), free_port()
        made = command(
            "cloud_hub", "init", str(self.directory), "--offline-keys", str(base / "offline"),
            "--token-file", str(base / "token"), "--json",
        )  # fmt: skip
        self.token = json.loads(made)["admin_token"]
        self.url = f"https://127.0.0.1:{self.port}"
        self.context = ssl.create_default_context(cafile=str(self.directory / "keys" / "ca.pem"))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = {"EDGELOOP_HUB_BROKER__PORT": str(self.broker_port)}
        with (self.base / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cloud_hub", "serve", str(self.directory), "--port", str(self.port)],
                env={**ENVIRONMENT, **settings}, stdout=log, stderr=log, cwd=ROOT,
            )  # fmt: skip
        until(self._healthy, "the hub answers")

    def _healthy(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log()
        try:
            self.call("GET", "/healthz")
        except OSError:
            return False
        return True

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()!r}") from error

    def device(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "/api/v1/devices/cam-1")
        return found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(f"file:{self.directory / 'hub.db'}?mode=ro", uri=True) as database:
            return database.execute(query).fetchall()

    def stop(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def log(self) -> str:
        return (self.base / "hub.log").read_text()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path)
    hub.start()
    yield hub
    if hub.process is not None and hub.process.poll() is None:
        hub.stop(signal.SIGTERM)


def publish(hub: HubProcess, folder: Path) -> None:
    """A model with one release of the tiny classifier, for the channel `stable`."""
    made = models.release(folder, data=models.litert_bytes("fp32"), runtime="litert")
    hub.call("POST", "/api/v1/models", {"name": "tiny"})
    for path in folder.iterdir():
        hub.call("PUT", f"/api/v1/blobs/{path.name}", path.read_bytes())
    assert hub.call("POST", "/api/v1/models/tiny/releases", encode_manifest(made.manifest))["number"] == 1
    hub.call("PUT", "/api/v1/channels/stable/models/tiny", {
        "release": 1, "probation": {"seconds": 1, "requests": 5}, "bench": {"on_commit": True, "rounds": 20},
    })  # fmt: skip
    hub.call("PATCH", "/api/v1/channels/stable", {"telemetry": {"window_s": 2}})


def waiting(directory: Path) -> int:
    """Records in the device's spool that no receipt covers yet."""
    with sqlite3.connect(f"file:{directory / 'spool.db'}?mode=ro", uri=True) as database:
        return int(database.execute("SELECT count(*) FROM records").fetchone()[0])


def ask(address: str) -> bool:
    try:
        return bool(client.infer("tiny", X, url=address).parameters["served_by"] == "edge")
    except AgentError:
        return False


def test_what_a_device_does_arrives_once(hub: HubProcess, tmp_path: Path) -> None:
    publish(hub, tmp_path / "blobs")
    token = hub.call("POST", "/api/v1/tokens", {"kind": "claim", "channel": "stable"})["token"]
    directory = tmp_path / "device"
    command("edge_agent.main", "enroll", hub.url, "--token", token, "--name", "cam-1", "--dir", str(directory))
    with running(directory, "--port", "0") as (process, address):
        until(lambda: ask(address), "the agent serves")
        until(
            lambda: ask(address) and any(m["state"] == "committed" for m in hub.device()["models"]),
            "the hub knows that the release is committed",
        )
        until(lambda: hub.rows("SELECT 1 FROM window LIMIT 1"), "a window arrives")
        (figures,) = until(
            lambda: hub.call("GET", "/api/v1/models/tiny/releases/1")["measured"], "the device has measured the release"
        )
        assert figures["devices"] == 1 and 0 < figures["p50_us"] <= figures["p95_us"]
        assert hub.device()["state"] == "online"
        assert "agent" in {event["kind"] for event in hub.device()["events"]}

        sent = hub.call("POST", "/api/v1/devices/cam-1/commands", {"kind": "diagnose"})

        def answered() -> Any:
            results = (event["body"] for event in hub.device()["events"] if event["kind"] == "result")
            return next((body for body in results if body["id"] == sent["id"]), None)

        answer = until(answered, "the command is answered")
        assert answer["ok"] and answer["data"]["models"]["tiny"]["serving"] == 1
        until(lambda: waiting(directory) == 0, "receipts empty the spool")
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "/msgspec/" in maps and "/cryptography/" not in maps, "receipts are checked outside the serving process"

        hub.stop(signal.SIGKILL)
        before = len(hub.rows("SELECT 1 FROM window"))
        until(lambda: ask(address) and waiting(directory) > 0, "the agent goes on without the hub")
        hub.start()
        until(lambda: waiting(directory) == 0, "what waited is delivered")
    assert len(hub.rows("SELECT 1 FROM window")) > before
    both = "SELECT spool, seq FROM deviceevent UNION ALL SELECT spool, seq FROM window"
    taken = sorted(seq for _, seq in hub.rows(both))
    assert taken == list(range(1, len(taken) + 1)), "nothing is lost or doubled"
    assert hub.rows("SELECT lost FROM spoolcursor") == [(0,)]
    assert hub.stop(signal.SIGTERM) == 0, hub.log()

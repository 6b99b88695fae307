"""A hub and an agent as an operator starts them: two processes, a broker, and nothing lost between them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent import client
from edge_agent.errors import AgentError
from fleet.protocol.manifest import encode_manifest
from tests.support import models
from tests.support.agent_process import running
from tests.support.operated_hub import OperatedHub, command, until, waiting

pytestmark = pytest.mark.e2e

X = np.array([[9, 0, 0, 0]], np.float32)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[OperatedHub]:
    hub = OperatedHub(tmp_path)
    hub.start()
    yield hub
    if hub.process is not None and hub.process.poll() is None:
        hub.stop(signal.SIGTERM)


def publish(hub: OperatedHub, folder: Path) -> None:
    """A model with one release of the tiny classifier, for the channel `stable`."""
    made = models.release(folder, data=models.litert_bytes("fp32"), runtime="litert")
    hub.call("POST", "/api/v1/models", {"name": "tiny"})
    for path in folder.iterdir():
        hub.call("PUT", f"/api/v1/blobs/{path.name}", path.read_bytes())
    assert hub.call("POST", "/api/v1/models/tiny/releases", encode_manifest(made.manifest))["number"] == 1
    hub.call(
        "PUT",
        "/api/v1/channels/stable/models/tiny",
        {"release": 1, "probation": {"seconds": 1, "requests": 5}, "bench": {"on_commit": True, "rounds": 20}},
    )
    hub.call("PATCH", "/api/v1/channels/stable", {"telemetry": {"window_s": 2}})


def ask(address: str) -> bool:
    try:
        return bool(client.infer("tiny", X, url=address).parameters["served_by"] == "edge")
    except AgentError:
        return False


def test_what_a_device_does_arrives_once(hub: OperatedHub, tmp_path: Path) -> None:
    publish(hub, tmp_path / "blobs")
    token = hub.call("POST", "/api/v1/tokens", {"kind": "claim", "channel": "stable"})["token"]
    directory = tmp_path / "device"
    command("edge-agent", "enroll", hub.url, "--token", token, "--name", "cam-1", "--dir", str(directory))
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

        def told(kind: str, **args: Any) -> Any:
            sent = hub.call("POST", "/api/v1/devices/cam-1/commands", {"kind": kind, "args": args})
            path = f"/api/v1/devices/cam-1/commands/{sent['id']}"
            return until(lambda: hub.call("GET", path)["answer"], f"the command {kind} is answered")

        answer = told("diagnose")
        assert answer["ok"] and answer["data"]["models"]["tiny"]["serving"] == 1
        logged = told("logs", lines=1000)["data"]["lines"]
        assert any("serves on" in line["text"] for line in logged) and token not in str(logged)
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
    taken: dict[str, list[int]] = {}
    for spool, seq in sorted(hub.rows(both)):
        taken.setdefault(spool, []).append(seq)
    # Each connection that has new records numbers them anew.
    assert all(found == list(range(1, len(found) + 1)) for found in taken.values()), "nothing is lost or doubled"
    assert set(hub.rows("SELECT lost FROM spoolcursor")) == {(0,)}
    assert hub.stop(signal.SIGTERM) == 0, hub.log()

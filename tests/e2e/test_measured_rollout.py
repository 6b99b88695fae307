"""A rollout that demands a measured p95, with a real hub and a real agent: it waits, goes on, or is halted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fleet.protocol.manifest import encode_manifest
from tests.e2e import test_hub_and_agent as pair
from tests.support import models
from tests.support.agent_process import running

pytestmark = pytest.mark.e2e
hub = pair.hub


def publish(hub: Any, folder: Path, **changes: Any) -> int:
    requires = changes.pop("requires", ())
    manifest = replace(models.release(folder, runtime="litert", **changes).manifest, requires=requires)
    for path in folder.iterdir():
        hub.call("PUT", f"/api/v1/blobs/{path.name}", path.read_bytes())
    return int(hub.call("POST", "/api/v1/models/tiny/releases", encode_manifest(manifest))["number"])


def roll_out(hub: Any, release: int, max_p95_us: float) -> str:
    guard = {"evidence": "install", "max_p95_us": max_p95_us}
    body = {"model": "tiny", "release": release, "channel": "stable", "stages": [100], "guard": guard}
    return str(hub.call("POST", "/api/v1/rollouts", body)["id"])


def ended(hub: Any, rollout: str, address: str) -> Any:
    def look() -> Any:
        pair.ask(address)  # probation needs requests
        found = hub.call("GET", f"/api/v1/rollouts/{rollout}")
        return found if found["state"] in ("finished", "halted") else None

    return pair.until(look, f"rollout {rollout} ends")


def test_a_rollout_waits_for_the_devices_figures_and_halts_on_slow_ones(hub: Any, tmp_path: Path) -> None:
    pair.publish(hub, tmp_path / "one")
    hub.call("PUT", "/api/v1/channels/stable/models/tiny", {"bench": {"on_commit": False}})
    second = publish(hub, tmp_path / "two", data=models.litert_bytes("int8"), tolerance=0.2)
    third = publish(hub, tmp_path / "three", data=models.litert_bytes("fp32"), threshold=0.5)
    token = hub.call("POST", "/api/v1/tokens", {"kind": "claim", "channel": "stable"})["token"]
    directory = tmp_path / "device"
    pair.command("edge-agent", "enroll", hub.url, "--token", token, "--name", "cam-1", "--dir", str(directory))
    with running(directory, "--port", "0") as (_, address):
        committed = lambda: pair.ask(address) and any(m["state"] == "committed" for m in hub.device()["models"])  # noqa: E731
        pair.until(committed, "the first release is committed")
        assert hub.call("GET", "/api/v1/models/tiny/releases/1")["measured"] == []

        good = ended(hub, roll_out(hub, second, max_p95_us=1e6), address)
        assert good["state"] == "finished" and "measured p95 at most" in good["reason"], good["reason"]
        (figures,) = hub.call("GET", f"/api/v1/models/tiny/releases/{second}")["measured"]
        assert good["verdict"]["latencies"][0]["p95_us"] == figures["p95_us"]

        bad = ended(hub, roll_out(hub, third, max_p95_us=0.001), address)
        assert bad["state"] == "halted" and "0.001 µs is allowed" in bad["reason"], bad["reason"]

        def cleared() -> bool:  # stored first, published after
            entry = hub.call("GET", "/api/v1/channels/stable")["document"]["models"]["tiny"]
            return (entry["release"], entry["rollout"]) == (second, None)

        pair.until(cleared, "the channel returns to the second release")

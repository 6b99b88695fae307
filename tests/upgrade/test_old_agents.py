"""Agents of released versions under this version's hub, as real processes: they serve, report and follow halts."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import test_hub_and_agent as pair
from tests.e2e.test_measured_rollout import publish
from tests.support import models
from tests.support.agent_process import running

FIXTURES = Path(__file__).parents[1] / "fixtures"
AGENTS = sorted(FIXTURES.glob("*/agent.zip"))

pytestmark = pytest.mark.e2e
hub = pair.hub


def enrol(code: Path, hub: Any, directory: Path) -> None:
    token = hub.call("POST", "/api/v1/tokens", {"kind": "claim", "channel": "stable"})["token"]
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent.main", "enroll", hub.url, "--token", token, "--name", "cam-1", "--dir", "."],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("agent", AGENTS, ids=lambda path: path.parent.name)
def test_an_old_agent_serves_reports_and_follows_a_rollout_and_its_halt(agent: Path, hub: Any, tmp_path: Path) -> None:
    code = tmp_path / "code"
    zipfile.ZipFile(agent).extractall(code)  # the self-test's sandbox opens folders of code, and no zip file
    pair.publish(hub, tmp_path / "one")
    second = publish(hub, tmp_path / "two", data=models.litert_bytes("int8"), tolerance=0.2)
    directory = tmp_path / "device"
    enrol(code, hub, directory)

    def at(release: int) -> bool:
        found = hub.device()["models"]
        return pair.ask(address) and any((m["active"], m["state"]) == (release, "committed") for m in found)

    with running(directory, "--port", "0", code=code) as (_, address):
        pair.until(lambda: at(1), "the first release is committed")
        assert hub.device()["info"]["agent"] == agent.parent.name, "it is the old code that runs"
        pair.until(lambda: hub.rows("SELECT 1 FROM window LIMIT 1"), "a window arrives")
        body = {"model": "tiny", "release": second, "channel": "stable", "stages": [100], "soak_s": 3600.0}
        body["guard"] = {"evidence": "install"}
        rollout = hub.call("POST", "/api/v1/rollouts", body)["id"]
        pair.until(lambda: at(second), "the rollout's release is committed")
        hub.call("POST", f"/api/v1/rollouts/{rollout}/abort", {})
        pair.until(lambda: at(1), "the halt is followed")
        third = publish(hub, tmp_path / "three", requires=("something-new",), threshold=0.5)
        hub.call("PUT", "/api/v1/channels/stable/models/tiny", {"release": third})
        held = pair.until(lambda: hub.device()["held_back"].get("tiny"), "the new release is held back")
        assert held == {"offered": third, "lacks": ["something-new"], "release": 1}
        hub.call("PUT", "/api/v1/channels/stable/models/tiny", {"release": second})
        pair.until(lambda: at(second), "the next release that it understands is installed")
        pair.until(lambda: pair.waiting(directory) == 0, "receipts empty the spool")
    told = [event["body"] for event in hub.device()["events"] if event["kind"] == "model"]
    assert {body["target"] for body in told} <= {None, 1, second}, "what it does not understand was never offered"

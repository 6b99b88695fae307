"""A card that was copied, so that two machines have one identity: device, hub and commands name it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_agent import client
from fleet.protocol.messages import IN_USE_TWICE
from tests.e2e.test_hub_and_agent import OperatedHub, command, publish, until
from tests.e2e.test_hub_and_agent import hub as hub  # a hub's own process
from tests.support.agent_process import running

pytestmark = pytest.mark.e2e


def enrol(hub: OperatedHub, directory: Path, name: str) -> None:
    token = hub.call("POST", "/api/v1/tokens", {"kind": "claim", "channel": "stable"})["token"]
    command("edge-agent", "enroll", hub.url, "--token", token, "--name", name, "--dir", str(directory))


def status(directory: Path) -> dict[str, Any]:
    return client.found(directory)[1]


def test_two_machines_with_one_identity_are_named_on_both_sides(hub: OperatedHub, tmp_path: Path) -> None:
    publish(hub, tmp_path / "blobs")
    original, copy = tmp_path / "original", tmp_path / "copy"
    enrol(hub, original, "cam-1")
    for _ in range(4):  # restarts, each with its login
        with running(original, "--port", "0"):
            until(lambda: status(original)["online"], "the agent is online")
    assert not hub.device()["cloned"]
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("*.sock", ".time-floor.*"))
    with running(original, "--port", "0"), running(copy, "--port", "0"):
        found = until(lambda: hub.device()["cloned"] and hub.device(), "the hub sees two")
        assert found["problem"] == IN_USE_TWICE and "enrol the other anew" in found["hint"]
        for directory in (original, copy):
            until(lambda: status(directory)["problem"] == IN_USE_TWICE, "the device names it")  # noqa: B023
            said = command("edge-agent", "status", "--dir", str(directory))
            assert IN_USE_TWICE in said and "edge-agent enroll" in said
    assert "two machines connect as cam-1" in hub.log()


def test_what_the_hint_says_helps(hub: OperatedHub, tmp_path: Path) -> None:
    """The other machine, with an emptied directory and a token of its own, is a device of its own."""
    publish(hub, tmp_path / "blobs")
    original, copy = tmp_path / "original", tmp_path / "copy"
    enrol(hub, original, "cam-1")
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("*.sock", ".time-floor.*"))
    shutil.rmtree(copy)
    enrol(hub, copy, "cam-2")
    with running(original, "--port", "0"), running(copy, "--port", "0"):
        until(lambda: status(original)["online"] and status(copy)["online"], "both are online")
        until(lambda: hub.device()["state"] == "online", "the hub sees the one")
        until(lambda: hub.call("GET", "/api/v1/devices/cam-2")["state"] == "online", "the hub sees the other")
    assert not hub.device()["cloned"]

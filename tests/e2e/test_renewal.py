"""A device whose certificates last for seconds: it renews them and stays connected, over several lives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import test_hub_and_agent as pair
from tests.support import hub_process
from tests.support.agent_process import running
from tests.support.require import require

pytestmark = pytest.mark.e2e

LIFE_S = 16


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    require("mosquitto", "mosquitto")  # the embedded broker knows no certificates
    monkeypatch.setitem(hub_process.ENVIRONMENT, "EDGELOOP_HUB_DEVICE_CERTIFICATE_DAYS", str(LIFE_S / 86_400))
    monkeypatch.setitem(
        hub_process.ENVIRONMENT, "EDGELOOP_HUB_BROKER__PREFIX", "acme/fleet"
    )  # devices are told it, too
    monkeypatch.setenv("EDGELOOP_POLL_S", "1")
    hub = pair.OperatedHub(tmp_path)
    hub.start()
    yield hub
    if hub.process is not None and hub.process.poll() is None:
        hub.stop(15)


def test_it_stays_connected_longer_than_its_first_certificate_lasts(hub: Any, tmp_path: Path) -> None:
    pair.publish(hub, tmp_path / "blobs")
    token = hub.call("POST", "/api/v1/tokens", {"kind": "claim", "channel": "stable"})["token"]
    directory = tmp_path / "device"
    pair.command("edge-agent", "enroll", hub.url, "--token", token, "--name", "cam-1", "--dir", str(directory))
    first = hub.device()["certificate_expires_at"]
    key = (directory / "identity" / "device.key").read_bytes()
    with running(directory, "--port", "0") as (_, address):
        pair.until(lambda: pair.ask(address), "the agent serves")
        pair.until(lambda: hub.device()["certificate_expires_at"] > first, "the certificate is renewed")
        # the hub knows of it a moment before the device has put its new key into place
        pair.until(lambda: (directory / "identity" / "device.key").read_bytes() != key, "the key is new, too")
        pair.until(lambda: pair.ask(address) and time.time() > first + 1, "the first certificate has expired")
        before = len(hub.rows("SELECT 1 FROM window"))
        pair.until(
            lambda: pair.ask(address) and len(hub.rows("SELECT 1 FROM window")) > before + 1,
            "windows arrive under the new certificate",
        )
        assert hub.device()["state"] == "online"
        connections = (directory / "log").read_text().count("connected to the broker")
    states = [state for (state,) in hub.rows("SELECT state FROM certificate ORDER BY issued_at")]
    assert states.count("current") == 1 and "replaced" in states
    assert connections >= 2, "it has connected anew with the new certificate"

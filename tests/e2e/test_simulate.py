"""`fleet simulate` against a real hub and broker: devices enrol, follow a rollout, and lose nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.protocol.manifest import encode_manifest
from fleet.simulator.profiles import assign, parse_mix
from tests.support import models
from tests.support.hub_process import ROOT
from tests.support.operated_hub import OperatedHub, until

pytestmark = pytest.mark.e2e

DEVICES = 200


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatedHub]:
    """One for all; its model has a release on the channel `stable`."""
    folder = tmp_path_factory.mktemp("simulate")
    hub = OperatedHub(folder)
    hub.start()
    publish(hub, folder / "blobs")
    yield hub
    if hub.process is not None and hub.process.poll() is None:
        hub.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of one fleet: a device's name exists once on a hub."""
    return tmp_path_factory.mktemp("identities")


def publish(hub: OperatedHub, folder: Path) -> None:
    """A model with one release on the channel `stable`."""
    made = models.release(folder, data=models.litert_bytes("fp32"), runtime="litert")
    hub.call("POST", "/api/v1/models", {"name": "tiny"})
    for path in folder.iterdir():
        hub.call("PUT", f"/api/v1/blobs/{path.name}", path.read_bytes())
    hub.call("POST", "/api/v1/models/tiny/releases", encode_manifest(made.manifest))
    hub.call("PUT", "/api/v1/channels/stable/models/tiny", {"release": 1, "probation": {"seconds": 2, "requests": 2}})
    hub.call("PATCH", "/api/v1/channels/stable", {"telemetry": {"window_s": 10}})


def environment_of(hub: OperatedHub) -> dict[str, str]:
    """The environment that logs a command in."""
    ca = str(hub.directory / "keys" / "ca.pem")
    return {**os.environ, "EDGELOOP_HUB": hub.url, "EDGELOOP_TOKEN": hub.token, "EDGELOOP_CA": ca}


def simulate(hub: OperatedHub, folder: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "fleet.cli.main", "simulate", *arguments, "--dir", str(folder), "--json"],
        env=environment_of(hub),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_devices_enrol_follow_the_channel_and_are_known_one_by_one(hub: OperatedHub, identities: Path) -> None:
    mix = ("silent=2%", "hostile=2%", "duplicating=10%")
    profiles = [argument for share in mix for argument in ("--profile", share)]
    report = simulate(hub, identities, str(DEVICES), "--for", "5s", "--drain", "200s", "--seed", "3", *profiles)
    assert report["enrolled"] == DEVICES and report["lost"] == 0 and report["hostile"] > 0
    assert report["waiting"] == 0 and report["receipted"] == report["records"] > 6 * DEVICES
    assert report["releases"] == {"tiny@1": DEVICES}
    rows = hub.rows(
        "SELECT device_id, spool, seq FROM deviceevent UNION ALL "
        "SELECT device_id, spool, seq FROM window ORDER BY 1, 2, 3"
    )
    kinds = assign(parse_mix(mix), DEVICES, 3)
    for number, kind in enumerate(kinds):
        taken = [seq for device, _, seq in rows if device == f"sim-{number:05}"]
        if kind != "hostile":  # those forge numbers of their own spool, and so lose records of their own
            assert taken == list(range(1, len(taken) + 1)), (number, kind)
    assert len(kinds) == DEVICES and len(rows) > 6 * DEVICES

    tokens = hub.rows("SELECT count(*) FROM token")
    again = simulate(hub, identities, "20", "--for", "1s", "--seed", "3")
    assert again["enrolled"] == 20 and hub.rows("SELECT count(*) FROM token") == tokens, "nobody enrols twice"


def test_what_cannot_be_meant_is_said(hub: OperatedHub, tmp_path: Path) -> None:
    for arguments, words in (
        (["3", "--profile", "nobody=10%"], "no profile 'nobody'"),
        (["3", "--channel", "missing"], "missing"),
        (["0"], "N"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "fleet.cli.main", "simulate", *arguments, "--dir", str(tmp_path / "s")],
            env=environment_of(hub),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode not in (0, 1) and words in done.stderr, done.stderr


def test_an_end_by_hand_lets_the_devices_say_goodbye(hub: OperatedHub, identities: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "fleet.cli.main",
        "simulate",
        "3",
        "--for",
        "1h",
        "--dir",
        str(identities),
        "--json",
    ]
    with subprocess.Popen(command, env=environment_of(hub), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        online = "SELECT count(*) FROM device WHERE online"
        until(lambda: hub.rows(online) == [(3,)], "they are online")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and json.loads(said)["enrolled"] == 3


def test_identities_of_another_channel_are_not_taken_for_this_one(hub: OperatedHub, identities: Path) -> None:
    simulate(hub, identities, "1", "--for", "1s")
    hub.call("POST", "/api/v1/channels", {"name": "beta"})
    done = subprocess.run(
        [sys.executable, "-m", "fleet.cli.main", "simulate", "1", "--channel", "beta", "--dir", str(identities)],
        env=environment_of(hub),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1 and "for channel 'stable'" in done.stderr and "no device" in done.stderr, done.stderr

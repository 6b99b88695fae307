"""A device that is set back to an older image, and one that was revoked and comes back: nothing unreceived is lost."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent import client
from edge_agent.identity.http import ENROL_ANEW
from tests.e2e.test_hub_and_agent import ask, command, publish, until
from tests.support.agent_process import running
from tests.support.operated_hub import OperatedHub, waiting

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatedHub]:
    """A hub for all of them, with a model."""
    base = tmp_path_factory.mktemp("hub")
    hub = OperatedHub(base)
    hub.start()
    publish(hub, base / "blobs")
    yield hub
    hub.stop(signal.SIGTERM)


def enrol(hub: OperatedHub, directory: Path, name: str) -> None:
    token = hub.call("POST", "/api/v1/tokens", {"kind": "claim", "channel": "stable"})["token"]
    command("edge-agent", "enroll", hub.url, "--token", token, "--name", name, "--dir", str(directory))


def status(directory: Path) -> dict[str, Any]:
    return client.found(directory)[1]


def run_and_report(directory: Path) -> str:
    """Let the agent serve until the hub has all that it had to say; its series."""
    with running(directory, "--port", "0") as (_, address):
        until(lambda: ask(address), "the agent serves")
        until(lambda: waiting(directory) == 0, "receipts empty the spool")
        return str(status(directory)["outbox"]["spool"])


def numbers(hub: OperatedHub, device: str, series: str) -> list[int]:
    """The numbers of a device's records of a series that have arrived."""
    one = f"SELECT seq FROM {{}} WHERE device_id = '{device}' AND spool = '{series}'"
    rows = hub.rows(f"{one.format('deviceevent')} UNION ALL {one.format('window')}")
    return sorted(number for (number,) in rows)


def test_a_device_that_is_set_back_to_an_older_image_loses_nothing_of_what_it_does_then(
    hub: OperatedHub, tmp_path: Path
) -> None:
    directory, image = tmp_path / "device", tmp_path / "image"
    enrol(hub, directory, "set-back")
    run_and_report(directory)
    shutil.copytree(directory, image, ignore=shutil.ignore_patterns("*.sock", ".time-floor.*"))
    series = [run_and_report(directory)]
    shutil.rmtree(directory)
    shutil.copytree(image, directory)
    series.append(run_and_report(directory))
    assert series[0] != series[1]
    for one in series:
        arrived = numbers(hub, "set-back", one)
        assert arrived and arrived == list(range(1, len(arrived) + 1))


def test_a_device_that_was_revoked_says_what_to_do_and_goes_on_after_it(hub: OperatedHub, tmp_path: Path) -> None:
    directory = tmp_path / "device"
    enrol(hub, directory, "revoked")
    run_and_report(directory)
    hub.call("POST", "/api/v1/devices/revoked/revoke")
    with running(directory, "--port", "0") as (_, address):
        until(lambda: ask(address), "it serves on")
        until(lambda: waiting(directory) > 0, "what it says is kept")
        until(lambda: ENROL_ANEW in command("edge-agent", "status", "--dir", str(directory)), "it says what to do")
        held = str(status(directory)["outbox"]["spool"])
    (directory / "identity").rename(tmp_path / "old-identity")
    enrol(hub, directory, "let-back-in")
    with running(directory, "--port", "0") as (_, address):
        until(lambda: ask(address), "the agent serves")
        until(lambda: waiting(directory) == 0, "receipts empty the spool")
        until(lambda: hub.call("GET", "/api/v1/devices/let-back-in")["state"] == "online", "the hub sees it")
    arrived = numbers(hub, "let-back-in", held)
    assert arrived and arrived == list(range(1, len(arrived) + 1))
    assert numbers(hub, "revoked", held) == []

"""The agent's own process, with a hub that never answers."""

from __future__ import annotations

import signal
import stat
import time

import numpy as np
import pytest

from edge_agent import client
from edge_agent.errors import NotFoundError
from edge_agent.main import main
from edge_agent.update.machine import Held, ModelState
from edge_agent.update.state import StateFile
from edge_agent.update.store import Store
from fleet.protocol.manifest import encode_manifest
from tests.support import models
from tests.support.agent_process import enrolled, running

X = np.array([[9, 0, 0, 0]], np.float32)


@pytest.fixture
def device(tmp_path):
    """A device that has committed release 1."""
    directory = enrolled(tmp_path / "device")
    release = models.release(directory / "blobs", data=models.litert_bytes("int8"), runtime="litert", threshold=0.9)
    digest = Store(directory).put_manifest(encode_manifest(release.manifest))
    held = Held(release=1, variant=release.variant.name, manifest=digest)
    StateFile(directory).put_model("tiny", ModelState(state="committed", active=held))
    return directory


def ask(address, x=X):
    """An answer, as soon as the installed release is loaded."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return client.infer("tiny", x, url=address)
        except NotFoundError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_it_serves_without_a_hub_and_survives_sigkill(device):
    for number in (signal.SIGKILL, signal.SIGTERM):
        with running(device, "--port", "0") as (process, address):
            answer = ask(address)
            assert answer.parameters["served_by"] == "edge"
            assert answer.parameters["release"] == 1
            unsure = ask(address, np.zeros((1, 4), np.float32))
            assert unsure.parameters["degraded"] is True
            assert unsure.parameters["fallback_reason"] in ("unreachable", "breaker-open")
            document = client.status(device)
            assert document["running"] is True
            assert document["device"] == "cam-1"
            assert document["models"]["tiny"]["serving"] == 1
            process.send_signal(number)
            code = process.wait(20)
    assert code == 0, (device / "log").read_text()
    assert client.status(device)["running"] is False


def test_a_second_agent_in_the_same_directory_is_refused(device, capsys):
    with running(device, "--port", "0"):
        assert main(["run", "--dir", str(device), "--port", "0"]) == 5
    assert "another agent runs" in capsys.readouterr().err


def test_a_unix_socket_is_for_the_group_only(device):
    path = device / "api.sock"
    with running(device, "--uds", str(path)) as (_, address):
        assert address == f"unix:{path}"
        assert ask(address).parameters["served_by"] == "edge"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_an_agent_that_is_not_enrolled_says_what_to_do(tmp_path, capsys):
    assert main(["run", "--dir", str(tmp_path)]) != 0
    assert "edge-agent enroll" in capsys.readouterr().err

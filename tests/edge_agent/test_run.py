"""The agent's own process, with a hub that never answers."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import stat
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from edge_agent import client
from edge_agent.errors import ConflictError, NotFoundError
from edge_agent.host.announcement import announce, announce_later
from edge_agent.host.lock import agent_lock
from edge_agent.main import main
from edge_agent.update.disk.state import StateFile
from edge_agent.update.rules.model_state import ModelState
from fleet.rpc import messages
from tests.support import models
from tests.support.agent_process import enrolled, running

X = np.array([[9, 0, 0, 0]], np.float32)


@pytest.fixture
def device(tmp_path):
    """A device that has committed release 1."""
    directory = enrolled(tmp_path / "device")
    held = models.installed(directory, data=models.litert_bytes("int8"), runtime="litert", threshold=0.9)
    StateFile(directory).put_model("tiny", ModelState(state="committed", active=held))
    return directory


def ask(address, x=X):
    """An answer, as soon as the installed release is loaded."""
    deadline = time.monotonic() + 120
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
            code = process.wait(120)
    assert code == 0, (device / "log").read_text()
    assert client.status(device)["running"] is False


def test_a_second_agent_in_the_same_directory_is_refused(device, capsys):
    with running(device, "--port", "0"):
        assert main(["run", "--dir", str(device), "--port", "0"]) == 5
    assert "another agent runs" in capsys.readouterr().err


def test_a_unix_socket_is_for_the_group_only_and_grpc_beside_it_where_it_is_asked_for(device):
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # a socket's path may have 107 characters
        path = Path(short, "api.sock")
        with running(device, "--uds", str(path), "--grpc-port", "0") as (_, address):
            assert address == f"unix:{path}"
            assert ask(address).parameters["served_by"] == "edge"
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            also, rpc = client.status(device)["addresses"]
            assert also == address and rpc.startswith("grpc:127.0.0.1:")
            with grpc.insecure_channel(rpc.removeprefix("grpc:")) as channel:
                answer = messages.kind("ServerReadyResponse").FromString
                call = channel.unary_unary(f"/{messages.SERVICE}/ServerReady", None, answer)
                assert call(b"", timeout=60).ready


def test_an_agent_that_is_not_enrolled_says_what_to_do(tmp_path, capsys):
    assert main(["run", "--dir", str(tmp_path)]) != 0
    assert "edge-agent enroll" in capsys.readouterr().err


def test_an_address_that_the_disk_refuses_is_told_when_it_takes_it(tmp_path: Path) -> None:
    there = tmp_path / "run.json"
    there.mkdir()  # nothing can be renamed to it
    address = "http://127.0.0.1:1"
    assert not announce(tmp_path, address)

    async def heal() -> None:
        later = asyncio.ensure_future(announce_later(tmp_path, address, every_s=0.01))
        await asyncio.sleep(0.03)
        assert not later.done()
        there.rmdir()
        await asyncio.wait_for(later, 60)

    asyncio.run(heal())
    assert json.loads(there.read_bytes())["address"] == address


def test_a_folder_in_which_no_agent_ever_ran_is_locked_also_where_nothing_can_be_written(tmp_path: Path, monkeypatch):
    opened = os.open

    def read_only(path, flags, *more):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "read-only file system", str(path))
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", read_only)
    with agent_lock(tmp_path), pytest.raises(ConflictError), agent_lock(tmp_path):
        pass

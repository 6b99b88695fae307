"""The messages to the service manager, at a socket as systemd's: the agent serves, lives, is stuck, and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.host.notify import ServiceManager
from edge_agent.update.disk.crash_log import FILE
from edge_agent.update.disk.state import StateFile
from edge_agent.update.rules.model_state import ModelState
from tests.support import models
from tests.support.agent_process import ROOT, enrolled
from tests.support.crashing import HOOK, stuck


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as at:
        at.bind(str(tmp_path / "notify"))
        at.settimeout(30)
        yield at


@contextlib.contextmanager
def started(directory: Path, heard: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "edge_agent.main", "run", "--dir", str(directory), "--redact", HOOK]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": heard.getsockname()}
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_an_agent_says_that_it_serves_lives_and_stops(tmp_path: Path, heard) -> None:
    directory = enrolled(tmp_path / "device")
    (directory / "agent.toml").write_text("port = 0\nwatchdog_s = 0\n")  # its own watchdog is another thing
    with started(directory, heard) as process:
        while (said := heard.recv(100)).startswith(b"EXTEND_TIMEOUT_USEC="):
            pass
        assert said == b"READY=1" and (directory / "run.json").exists()
        assert [heard.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        process.terminate()
        while (said := heard.recv(100)) == b"WATCHDOG=1":
            pass
        assert said == b"STOPPING=1" and process.wait(120) == 0


def test_an_agent_whose_model_keeps_the_interpreters_lock_falls_silent(tmp_path: Path, heard) -> None:
    directory = enrolled(tmp_path / "device")
    (directory / "agent.toml").write_text("port = 0\nwatchdog_s = 1.0\n")  # which sees nothing
    held = models.installed(directory, data=stuck(models.onnx_bytes()))
    StateFile(directory).put_model("tiny", ModelState(state="committed", active=held))
    with started(directory, heard) as process:
        assert heard.recv(100).startswith(b"EXTEND_TIMEOUT_USEC=")
        heard.settimeout(5)  # it would have spoken twenty times
        with pytest.raises(TimeoutError):
            while True:
                heard.recv(100)
        assert process.poll() is None
        process.send_signal(signal.SIGABRT)  # as systemd does
        assert process.wait(120) == -signal.SIGABRT
    assert "crashing_load.py" in (directory / "log").read_text()
    assert b'"times":1' in (directory / FILE).read_bytes()  # the third time would be the last


def test_an_abstract_socket_is_reached(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as at:
        at.bind(f"\0edgeloop-test-{os.getpid()}")
        at.settimeout(30)
        ServiceManager(f"@edgeloop-test-{os.getpid()}").ready()
        assert at.recv(100) == b"READY=1"


def test_a_manager_that_hears_nothing_is_complained_of_once(tmp_path: Path, caplog) -> None:
    manager = ServiceManager(str(tmp_path / "nobody"))
    for _ in range(3):
        manager.alive()
    assert caplog.text.count("is not told") == 1


def test_without_a_manager_nobody_is_told() -> None:
    manager = ServiceManager("")
    manager.ready()
    manager.stopping()
    assert not manager.there

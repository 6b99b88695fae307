"""Only the Mosquitto of a hub of ours that was killed is ended, and never a process that has its number by now."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_hub.broker.leftover import CONFIGURATION, PID_FILE, end_leftover, is_ours, remember
from tests.support.require import require

WAIT_S = 60.0


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


def mosquitto(folder: Path) -> subprocess.Popen[bytes]:
    """One that listens nowhere but on a socket in `folder`."""
    binary = require("mosquitto", "mosquitto")
    folder.mkdir(exist_ok=True)
    user = "user root\n" if os.geteuid() == 0 else ""  # else it becomes another, who may not write there
    (folder / CONFIGURATION).write_text(f"{user}listener 0 {folder / 'socket'}\n")
    process = subprocess.Popen([binary, "-c", str(folder / CONFIGURATION)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + WAIT_S
    while not is_ours(folder, process.pid):  # between fork and exec it has our own command line
        assert process.poll() is None and time.monotonic() < deadline
    return process


def test_our_own_is_ended(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    ours = mosquitto(tmp_path / "ours")
    processes.append(ours)
    remember(tmp_path / "ours", ours.pid)
    end_leftover(tmp_path / "ours")
    assert ours.wait(WAIT_S) in (0, -signal.SIGTERM)  # by its handler, or before it had one
    end_leftover(tmp_path / "ours")  # it is gone: nothing happens


def test_one_that_0_1_remembered_is_ended(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    ours = mosquitto(tmp_path)
    processes.append(ours)
    (tmp_path / PID_FILE).write_text(str(ours.pid))
    end_leftover(tmp_path)
    assert ours.wait(WAIT_S) in (0, -signal.SIGTERM)  # by its handler, or before it had one


def test_another_hubs_mosquitto_with_the_number_of_ours_lives(
    tmp_path: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    theirs = mosquitto(tmp_path / "theirs")
    processes.append(theirs)
    (tmp_path / "ours").mkdir()
    remember(tmp_path / "ours", theirs.pid)
    end_leftover(tmp_path / "ours")
    assert theirs.poll() is None


def test_a_process_that_only_looks_like_ours_lives(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """It has our command line, but it started at another time than the one that was written down."""
    ours = mosquitto(tmp_path)
    processes.append(ours)
    remember(tmp_path, ours.pid)
    pid, started = (tmp_path / PID_FILE).read_text().split()
    (tmp_path / PID_FILE).write_text(f"{pid} {int(started) - 1}")
    end_leftover(tmp_path)
    assert ours.poll() is None


def test_a_process_that_reads_our_configuration_lives(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    (tmp_path / CONFIGURATION).write_text("")
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()", str(tmp_path / CONFIGURATION)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    processes.append(reader)
    assert reader.stdout is not None and reader.stdout.readline() == b"up\n"
    (tmp_path / PID_FILE).write_text(str(reader.pid))
    end_leftover(tmp_path)
    assert reader.poll() is None


@pytest.mark.parametrize("text", ["", "x", "99999999999999999999", "-1", "0", "1 2 3"])
def test_a_damaged_file_ends_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / PID_FILE).write_text(text)
    end_leftover(tmp_path)

"""A hub's directory has one owner, and the lock ends with it however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_hub.errors import ConflictError
from cloud_hub.opening.lock import NAME, hub_lock

HOLD = """
import sys, pathlib
from cloud_hub.opening.lock import hub_lock
with hub_lock(pathlib.Path(sys.argv[1]), "serve"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_who_has_it_until_that_one_is_gone(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(ConflictError, match=rf"process {holder.pid} \(cloud-hub serve\)") as caught,
        hub_lock(tmp_path, "init"),
    ):
        pass
    assert caught.value.exit_code == 5 and str(holder.pid).encode() in (tmp_path / NAME).read_bytes()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with hub_lock(tmp_path, "serve"):
        assert str(os.getpid()).encode() in (tmp_path / NAME).read_bytes()


def test_one_that_has_not_said_who_it_is_yet(tmp_path: Path) -> None:
    with hub_lock(tmp_path, "serve"):
        (tmp_path / NAME).write_bytes(b"")
        with pytest.raises(ConflictError, match="another process"), hub_lock(tmp_path, "serve"):
            pass

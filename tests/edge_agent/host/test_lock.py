"""The lock of an agent that runs, and a look at it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from edge_agent.errors import ConflictError
from edge_agent.host import lock
from edge_agent.host.lock import agent_lock, is_running


def test_to_look_writes_nothing(tmp_path: Path) -> None:
    assert is_running(tmp_path) is False and is_running(tmp_path / "none") is False
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / lock.NAME
    path.write_text("1")
    before = path.stat()
    assert is_running(tmp_path) is False
    assert (path.read_text(), path.stat().st_mtime_ns) == ("1", before.st_mtime_ns)


def test_an_agent_is_seen_and_a_second_one_refused(tmp_path: Path) -> None:
    with agent_lock(tmp_path):
        assert is_running(tmp_path) is True
        with pytest.raises(ConflictError) as caught, agent_lock(tmp_path):
            pass
        assert "edge-agent status" in caught.value.hint
    assert is_running(tmp_path) is False


def test_who_looks_in_that_moment_keeps_no_agent_from_starting(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / lock.NAME).touch()
    looker = os.open(tmp_path / lock.NAME, os.O_RDONLY)
    fcntl.flock(looker, fcntl.LOCK_SH)
    monkeypatch.setattr(lock, "sleep", lambda seconds: os.close(looker))
    with agent_lock(tmp_path):
        pass

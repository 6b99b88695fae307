"""The group that applications of the device are in: what it may read, and what not."""

from __future__ import annotations

import grp
import os
import socket
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_agent.config import AgentConfig
from edge_agent.host import sharing
from edge_agent.host.durable import write_durably
from edge_agent.identity.keys import load_or_make_key
from edge_agent.update.disk.store import Store
from edge_agent.update.worker.client import ProcessChildren
from tests.support.device import FakeActivator, FakeReporter
from tests.support.updaters import make_updater

OURS = os.getegid()
GROUP = 54321 if os.geteuid() == 0 else OURS  # root may give files to any group, others to their own


@pytest.fixture
def directory(tmp_path: Path, monkeypatch) -> Path:
    """An agent's folder as it was before the group was made."""
    monkeypatch.setattr(grp, "getgrnam", {"edgeloop": SimpleNamespace(gr_gid=GROUP)}.__getitem__)
    directory = tmp_path / "agent"
    (directory / "identity").mkdir(parents=True, mode=0o750)
    directory.chmod(0o700)
    load_or_make_key(directory / "identity" / "device.key")
    store = Store(directory)
    (store.blobs / "held").write_bytes(b"blob")
    (store.blobs / "held").chmod(0o440)
    write_durably(directory / "state.json", b"{}")
    return directory


def seen(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_gid, stat.S_IMODE(found.st_mode)


def test_the_group_reads_what_is_here_and_what_comes(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)  # a socket's path may have 107 characters
    before = os.umask(0o022)
    try:
        assert sharing.share_store(directory)
        write_durably(directory / "state.json", b'{"models":{}}')
        write_durably(directory / "blobs" / "later", b"blob", mode=0o440)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        os.umask(0o117)  # as the agent makes its sockets
        listener.bind("local.sock")
        listener.close()
    finally:
        os.umask(before)
    assert [seen(directory / name) for name in ("", "blobs", "releases")] == [(GROUP, 0o2750)] * 3
    assert [seen(directory / "blobs" / name) for name in ("held", "later")] == [(GROUP, 0o440)] * 2
    assert (seen(directory / "state.json"), seen(directory / "local.sock")) == ((GROUP, 0o640), (GROUP, 0o660))


def test_an_agent_that_starts_shares_before_it_listens(directory: Path) -> None:
    config = AgentConfig(dir=directory)
    make_updater(config, "dev-1", "stable", FakeActivator(), FakeReporter(), ProcessChildren(directory), kinds=())
    assert seen(directory) == (GROUP, 0o2750)


def test_the_identity_is_not_shared(directory: Path) -> None:
    before = seen(directory / "identity")
    assert sharing.share_store(directory)
    assert seen(directory / "identity") == before
    assert seen(directory / "identity" / "device.key")[1] == 0o600


def test_what_is_shared_already_is_left_alone(directory: Path, monkeypatch) -> None:
    assert sharing.share_store(directory)
    monkeypatch.delattr(os, "chown")
    monkeypatch.setattr(Path, "chmod", None)
    assert sharing.share_store(directory)


def test_an_agent_that_is_not_in_the_group_says_so_once_and_goes_on(directory: Path, monkeypatch, caplog) -> None:
    def refused(path: Path, user: int, group: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "chown", refused)
    monkeypatch.setattr(grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=GROUP + 1))
    assert not sharing.share_store(directory)
    (line,) = caplog.records
    assert "edgeloop" in line.getMessage() and "add the agent's user" in line.getMessage()


def test_a_device_without_the_group_is_left_as_it_is(directory: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(grp, "getgrnam", {}.__getitem__)
    before = [seen(path) for path in sorted(directory.rglob("*"))]
    assert not sharing.share_store(directory) and not caplog.records
    assert [seen(path) for path in sorted(directory.rglob("*"))] == before

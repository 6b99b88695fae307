"""Folders that go to another machine and come back: the same files, nothing elsewhere, and no more than is allowed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cloud_hub.execution import node
from cloud_hub.execution.log import Tail, append_log
from cloud_hub.execution.port import LOG, LOG_BYTES, OverLimitError, WorkFailedError
from cloud_hub.execution.shipping import PIECE, Incoming, Outgoing, Piece


def piece(path: str, data: bytes = b"x", *, first: bool = True, last: bool = True) -> Piece:
    return Piece(path=path, data=data, first=first, last=last)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_has_changed_comes_over_and_what_was_removed_goes(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    contents = {"a": b"", "b/c": b"x" * PIECE, "b/d": b"y" * (PIECE + 1)}
    for path, data in contents.items():
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).write_bytes(data)
    for own in (LOG, f"{LOG}.1", "tmp/scratch", "b/__pycache__/c.pyc"):
        (here / own).parent.mkdir(exist_ok=True)
        (here / own).write_text("stays")
    there.mkdir()
    outgoing, incoming = Outgoing(here), Incoming(there)
    sent = list(outgoing.changed())
    assert sorted(((one.path, one.first, one.last) for one in sent), key=lambda one: one[0]) == [
        ("a", True, True),
        ("b/c", True, True),
        ("b/d", True, False),
        ("b/d", False, True),
    ]
    for one in sent:
        incoming.take(one)
    assert files(there) == contents and list(outgoing.changed()) == []
    (here / "b" / "c").unlink()
    (here / "a").write_bytes(b"longer")
    for one in outgoing.changed():
        incoming.take(one)
    (there / LOG).write_text("its own")
    incoming.keep(outgoing.held())
    assert files(there) == {"a": b"longer", "b/d": contents["b/d"], LOG: b"its own"}


def test_what_says_that_others_are_done_comes_after_them(tmp_path: Path) -> None:
    moments = {"done.json": 5, "release/model": 4, "release/manifest.json": 5, "student": 3}
    for path, moment in moments.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
        os.utime(tmp_path / path, (moment, moment))
    sent = [one.path for one in Outgoing(tmp_path).changed()]
    assert sent == ["student", "release/model", "release/manifest.json", "done.json"]


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    incoming = Incoming(tmp_path)
    (tmp_path / "weights").write_bytes(b"old")
    incoming.take(piece("weights", b"ne", last=False))
    assert (tmp_path / "weights").read_bytes() == b"old"
    incoming.take(piece("weights", b"w", first=False))
    assert files(tmp_path) == {"weights": b"new"}


@pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../../x", "a//b", "./x", "a\0b", "link/x", LOG, "tmp/x"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(WorkFailedError, match=r"path|place"):
        Incoming(tmp_path / "in").take(piece(path))
    assert files(tmp_path) == {}


def test_no_more_comes_than_is_allowed_however_often_one_file_does(tmp_path: Path) -> None:
    incoming = Incoming(tmp_path, most=10)
    for _ in range(5):
        incoming.take(piece("checkpoint", b"x" * 8))
    with pytest.raises(OverLimitError, match="10 bytes"):
        incoming.take(piece("another", b"x" * 3))


def test_a_log_is_followed_over_its_turn(tmp_path: Path) -> None:
    log, parts = tmp_path / LOG, [b"a" * (LOG_BYTES - 3), b"bbb", b"cc", b"d"]
    tail = Tail(log)
    assert tail.more() == b""
    for part in parts:
        append_log(log, part)
        assert tail.more() == part
    append_log(log, b"e")
    append_log(log, b"f" * LOG_BYTES)
    assert tail.more() == b"e" + b"f" * LOG_BYTES and tail.more() == b""


def test_what_a_killed_task_has_left_is_removed_and_what_another_uses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.tempfile, "gettempdir", lambda: str(tmp_path))
    left = tmp_path / f"{node.PREFIX}left"
    left.mkdir()
    (left / node.LOCK).touch()
    with node._place() as used:
        assert left.is_dir()  # too young to be nobody's
        long_ago = time.time() - 2 * node.UNLOCKED_S
        for path in (left, used):
            os.utime(path, (long_ago, long_ago))
        with node._place():
            assert used.is_dir() and not left.exists()
    assert list(tmp_path.iterdir()) == []

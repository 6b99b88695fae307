"""The store on a disk that refuses to sync: nothing keeps a name that was not earned."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from edge_agent.errors import CorruptBlobError, DiskFullError
from edge_agent.update.disk.store import Store
from fleet.protocol.manifest import Blob
from tests.support.locks import Waiting, until

DATA = b"a model" * 100


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, reserve=0)


def refuse(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """The `call`-th fsync from now on fails, once."""
    calls = iter(range(1, 1000))
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("call", [1, 2], ids=["of the file", "of the folder"])
def test_a_download_whose_fsync_failed_is_thrown_away(store: Store, monkeypatch, call: int) -> None:
    blob = Blob(sha256=hashlib.sha256(DATA).hexdigest(), size=len(DATA))
    store.part(blob).write_bytes(DATA)
    refuse(monkeypatch, call)
    with pytest.raises(OSError, match="Input/output"):
        store.accept(blob)
    assert not store.has(blob) and not store.part(blob).exists()
    store.part(blob).write_bytes(DATA)
    store.accept(blob)
    store.verify(blob)


@pytest.mark.parametrize("call", [1, 2], ids=["of the file", "of the folder"])
def test_a_manifest_whose_fsync_failed_is_not_kept(store: Store, monkeypatch, call: int) -> None:
    refuse(monkeypatch, call)
    with pytest.raises(OSError, match="Input/output"):
        store.put_manifest(b"{}")
    assert not list(store.manifests.iterdir())
    store.put_manifest(b"{}")
    assert len(list(store.manifests.iterdir())) == 1


def test_a_file_that_another_process_accepted_first_stays(store: Store) -> None:
    blob = Blob(sha256=hashlib.sha256(DATA).hexdigest(), size=len(DATA))
    store.part(blob).write_bytes(DATA)
    store.accept(blob)
    with pytest.raises(CorruptBlobError, match="is gone"):
        store.accept(blob)
    store.verify(blob)
    store.part(blob).write_bytes(DATA[::-1])
    with pytest.raises(CorruptBlobError, match="arrived with hash"):
        store.accept(blob)
    store.verify(blob)
    assert not store.part(blob).exists()


def test_only_one_process_has_a_blob_to_itself_until_it_ends(store: Store) -> None:
    mine, other = (Blob(sha256=hashlib.sha256(text).hexdigest(), size=1) for text in (b"1", b"2"))
    told, tell = os.pipe()
    holder = os.fork()
    if not holder:
        with store.alone(mine):
            os.write(tell, b"x")
            signal.pause()
    try:
        os.read(told, 1)
        waiting = Waiting(store)
        with store.alone(other):  # nobody has that
            assert not waiting.seen()
        taker = os.fork()
        if not taker:
            with store.alone(mine):
                os._exit(0)
        until(waiting.seen)
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    assert os.waitpid(taker, 0)[1] == 0
    store.collect([])
    assert [path.name for path in store.blobs.parent.iterdir() if path.is_file()] == ["blobs.lock"]


def test_a_download_gives_way_where_that_makes_room_for_another_and_only_there(tmp_path: Path) -> None:
    size = 160_000
    store = Store(tmp_path, reserve=20_000, free=lambda f: size - sum(path.stat().st_size for path in f.iterdir()))
    first, second, small = (Blob(sha256=digit * 64, size=200_000) for digit in "123")
    store.part(first).write_bytes(bytes(130_000))
    store.part(small).write_bytes(bytes(1000))
    for blob in (first, second):
        with pytest.raises(DiskFullError, match="are free"):
            store.make_room([blob], [])
    assert len(list(store.blobs.iterdir())) == 2
    size = 220_000
    assert store.make_room([first], []) == 0  # by what is of no use to it
    assert list(store.blobs.iterdir()) == [store.part(first)]
    with pytest.raises(DiskFullError, match="with the 70000 of those under way"):
        store.make_room([second], [first])
    assert store.make_room([second], []) == 0
    assert list(store.blobs.iterdir()) == []


def test_a_download_that_is_accepted_while_its_size_is_asked_for_misses_nothing(tmp_path: Path, monkeypatch) -> None:
    store = Store(tmp_path, reserve=0, free=lambda folder: 0)
    blob = Blob(sha256="1" * 64, size=1000)
    answers = iter([False, True, False, False])
    monkeypatch.setattr(store, "has", lambda blob: next(answers))
    store.check_space([blob])
    with pytest.raises(DiskFullError, match="needs 1000 bytes"):
        store.check_space([blob])

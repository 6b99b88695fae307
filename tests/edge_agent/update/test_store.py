"""The store on a disk that refuses to sync: nothing keeps a name that was not earned."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from edge_agent.update.store import Store
from fleet.protocol.manifest import Blob

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

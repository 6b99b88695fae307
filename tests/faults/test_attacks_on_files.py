"""Attacks by what lies in the device's store: A10, A11, A14 and A15 of the list in `docs/reliability.md`, each once."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import random
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import AgentError, CorruptBlobError, ModelLoadError
from edge_agent.runtimes import selftest
from edge_agent.update.disk.store import Store
from fleet.protocol.manifest import Blob
from tests.support.faults.attacks import Exploit, external
from tests.support.models import WEIGHTS, onnx_bytes, release

pytestmark = pytest.mark.fault


def test_bytes_that_change_after_they_were_verified_are_never_loaded(tmp_path: Path) -> None:
    """A10: by rename and in place, a thousand times while they are read."""
    made = release(tmp_path / "blobs", data=onnx_bytes())
    sha256, good = made.variant.blob.sha256, onnx_bytes()
    path, stop = tmp_path / "blobs" / sha256, threading.Event()

    def change() -> None:
        for count in itertools.count():
            if stop.is_set():
                return
            draft = path.with_name("draft")
            draft.write_bytes(good if count % 2 else good[:-1] + bytes([good[-1] ^ 1]))
            draft.replace(path)
            with path.open("r+b") as file:
                file.write(good[:8])

    thread = threading.Thread(target=change)
    thread.start()
    outcomes = {True: 0, False: 0}
    try:
        while min(outcomes.values()) < 20 or sum(outcomes.values()) < 1000:
            try:
                assert made.open_blob(sha256) == good
                outcomes[True] += 1
            except CorruptBlobError:
                outcomes[False] += 1
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("runtime", ["onnx", "litert"])
def test_a_pickle_that_is_called_a_model_is_not_run(tmp_path: Path, runtime: str) -> None:
    """A15: even when it is signed."""
    made = release(tmp_path / "blobs", data=pickle.dumps(Exploit(tmp_path / "owned")), runtime=runtime)
    with pytest.raises(AgentError):
        selftest.run(made.manifest, made.variant.name, made.blobs)
    assert not (tmp_path / "owned").exists()


# ---- A11: the last byte counts, whatever the size ------------------------------------------------


@pytest.mark.parametrize("size", [1, 4096, 1 << 16, (1 << 18) + 1, (1 << 20) - 1])
def test_the_last_byte_of_a_file_is_covered(tmp_path: Path, size: int) -> None:
    """A11: sizes around the pieces in which files are read, written and hashed."""
    store, data = Store(tmp_path, reserve=0), random.Random(size).randbytes(size)
    blob = Blob(sha256=hashlib.sha256(data).hexdigest(), size=size)
    for wrong in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1], data + b"\0"):
        store.part(blob).write_bytes(wrong)
        with pytest.raises(CorruptBlobError):
            store.accept(blob)
        assert not list(store.blobs.iterdir())
    store.part(blob).write_bytes(data)
    store.accept(blob)
    store.verify(blob)


@pytest.mark.parametrize("more", [1, -1, 1 << 31, 1 << 32, 1 << 64])
def test_a_signed_size_that_is_not_the_files_is_refused(tmp_path: Path, more: int) -> None:
    """A11: the hash is right, the size is off by one or by what a narrow number would lose."""
    store, data = Store(tmp_path, reserve=0), bytes(1000)
    blob = Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data) + more)
    (store.blobs / blob.sha256).write_bytes(data)
    assert not store.has(blob)
    with pytest.raises(CorruptBlobError, match="bytes"):
        store.verify(blob)


@pytest.mark.timeout(120)
def test_the_last_byte_beyond_two_gibibytes_is_covered(tmp_path: Path, full: bool) -> None:
    """A11: a file whose size no signed 32-bit number holds; sparse, and hashed in pieces."""
    if not full:
        pytest.skip("two files of 2 GiB are hashed in the full size only: EDGELOOP_SIZE=full")
    store, size = Store(tmp_path, reserve=0), (1 << 31) + 1

    def sparse(last: bytes) -> Path:
        path = tmp_path / "sparse"
        path.write_bytes(b"")
        with path.open("r+b") as file:
            file.truncate(size - 1)
            file.seek(size - 1)
            file.write(last)
        return path

    with sparse(b"\1").open("rb") as file:
        blob = Blob(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=size)
    sparse(b"\0").replace(store.part(blob))
    with pytest.raises(CorruptBlobError):
        store.accept(blob)
    sparse(b"\1").replace(store.part(blob))
    store.accept(blob)
    assert store.has(blob)


# ---- A14: a signed ONNX file whose weights lie elsewhere -----------------------------------------


def plain(secret: Path, here: Path) -> str:
    shutil.copy(secret, here / "w")
    return "w"


def hard_link(secret: Path, here: Path) -> str:
    (here / "w").hardlink_to(secret)
    return "w"


def symlink(secret: Path, here: Path) -> str:
    (here / "w").symlink_to(secret)
    return "w"


def linked_parent(secret: Path, here: Path) -> str:
    (here / "folder").symlink_to(secret.parent, target_is_directory=True)
    return f"folder/{secret.name}"


PLACES = {
    "beside": plain,
    "hard link": hard_link,
    "symlink": symlink,
    "linked parent": linked_parent,
    "parent": lambda secret, here: f"../{secret.name}",
    "absolute": lambda secret, here: str(secret),
    "address": lambda secret, here: secret.as_uri(),
    "memory": lambda secret, here: "*/_ORT_MEM_ADDR_/*",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("folder", ["blobs", "."])
def test_an_onnx_file_gets_no_weights_from_elsewhere(tmp_path: Path, monkeypatch, place: str, folder: str) -> None:
    """A14: signed, the weights right where the file says: among the blobs, or in the agent's working folder."""
    here = tmp_path / folder if folder != "." else tmp_path / "work"
    here.mkdir()
    monkeypatch.chdir(here)
    secret = tmp_path / "weights"
    secret.write_bytes(np.ascontiguousarray(WEIGHTS).tobytes())
    made = release(tmp_path / "blobs", data=external(PLACES[place](secret, here)))
    with pytest.raises(ModelLoadError):
        selftest.run(made.manifest, made.variant.name, made.blobs)
    good = release(tmp_path / "blobs")
    assert selftest.run(good.manifest, good.variant.name, good.blobs).passed

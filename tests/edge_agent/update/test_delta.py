"""A model file made from a patch and the file that is here; with any trouble the whole file is fetched."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import struct
import time
import tracemalloc

import numpy as np
import pytest

from edge_agent.errors import DeltaError, FetchError, UnreachableError
from edge_agent.update.disk.store import Store
from edge_agent.update.download.delta import fetch_delta
from edge_agent.update.download.fetch import fetch_blob
from edge_agent.update.download.release import nearest
from edge_agent.update.download.throttle import DownloadPace
from edge_agent.update.download.transfer import Budgeted, Transfer
from edge_agent.update.messages import StepRequest
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.manifest import Blob
from model_compiler.package.delta import _patch, build
from tests.edge_agent.update.test_fetch import Answer

RANDOM = np.random.default_rng(0)
OLD = RANDOM.integers(0, 256, 300_000, dtype=np.uint8)
NEW = OLD.copy()
NEW[RANDOM.choice(len(NEW), 6000, replace=False)] += RANDOM.integers(1, 256, 6000, dtype=np.uint8)


def blob_of(data: bytes) -> Blob:
    return Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


HELD, WANTED = blob_of(OLD.tobytes()), blob_of(NEW.tobytes())


class Hub:
    """Serves one patch by range and the whole file, and keeps what was asked for. Implements `HubStreams`.

    `announced` is the length that it gives, if not the patch's; `cut` breaks an answer off after that many bytes.
    """

    def __init__(self, patch: bytes | None, *, announced: int | None = None, cut: int | None = None) -> None:
        self.patch, self.announced, self.cut, self.ranges = patch, announced, cut, True
        self.asked: list[dict[str, str]] = []

    @contextlib.contextmanager
    def stream(self, method, path, *, headers=None, timeout=30.0):
        self.asked.append(dict(headers or {}))
        if "/from/" not in path:
            yield Answer(200, NEW.tobytes(), {}, None)
        elif self.patch is None:
            yield Answer(404, b"", {}, None)
        else:
            start = int((headers or {}).get("Range", "bytes=0-")[6:-1]) if self.ranges else 0
            length = len(self.patch) if self.announced is None else self.announced
            extra = {"Content-Range": f"bytes {start}-{length - 1}/{length}"} if start else {}
            extra["Content-Length"] = str(length - start)
            yield Answer(206 if start else 200, self.patch[start:], extra, self.cut)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path, reserve=0)
    (store.blobs / HELD.sha256).write_bytes(OLD.tobytes())
    return store


def patched(hub: Hub, store: Store, most: int | None = None, pace: DownloadPace = DownloadPace(), **options) -> int:  # noqa: B008
    counted: list[int] = []
    transfer = Transfer(pace, counted.append, Budgeted(most), now=options.pop("now", time.monotonic))
    try:
        fetch_delta(hub, store, WANTED, HELD.sha256, transfer, **options)
    finally:
        patched.received = sum(counted)
    return patched.received


def leftovers(store: Store) -> set[str]:
    return {path.name for path in store.blobs.iterdir()} - {HELD.sha256}


def test_a_patch_makes_the_file_for_a_fraction_of_its_bytes(store):
    patch = build(OLD.tobytes(), NEW.tobytes()).patch
    assert patched(Hub(patch), store) == len(patch) < 0.1 * WANTED.size
    assert leftovers(store) == {f"{WANTED.sha256}.part"}
    store.accept(WANTED)
    assert (store.blobs / WANTED.sha256).read_bytes() == NEW.tobytes()


def damaged(patch: bytes, place: int) -> bytes:
    return patch[:place] + bytes([patch[place] ^ 1]) + patch[place + 1 :]


PATCH = build(OLD.tobytes(), NEW.tobytes()).patch
OTHER = build(OLD.tobytes(), NEW[::-1].tobytes()).patch
FROM_ANOTHER = build(NEW[::-1].tobytes(), NEW.tobytes()).patch


@pytest.mark.parametrize(
    ("hub", "words"),
    [
        (Hub(None), "HTTP 404"),
        (Hub(PATCH, announced=len(PATCH) - 9), "longer than was announced"),
        (Hub(PATCH, announced=WANTED.size), "are missing"),
        (Hub(PATCH, announced=0), "0 bytes"),
        (Hub(PATCH[:-20]), "of no use"),
        (Hub(OTHER), "missing|other files"),
        (Hub(damaged(PATCH, 3)), "not a delta"),
        (Hub(damaged(PATCH, len(PATCH) - 30)), "of no use|other bytes"),
        (Hub(b"ELD1 and then nothing that makes sense"), "of no use"),
    ],
)
def test_a_patch_that_is_of_no_use_leaves_nothing_and_the_whole_file_comes(store, hub, words):
    with pytest.raises(DeltaError, match=words):
        patched(hub, store)
    assert leftovers(store) == set()
    fetch_blob(hub, store, WANTED, pace=DownloadPace(), progress=lambda count: None)
    store.accept(WANTED)
    assert (store.blobs / WANTED.sha256).read_bytes() == NEW.tobytes()


def test_what_was_downloaded_before_is_kept_where_the_patch_saves_nothing(store):
    part = store.part(WANTED)
    part.write_bytes(NEW.tobytes()[: WANTED.size - 100])
    with pytest.raises(DeltaError, match="100 are missing"):
        patched(Hub(PATCH), store)
    assert part.stat().st_size == WANTED.size - 100


def test_a_patch_that_breaks_off_is_resumed_where_it_stopped(store):
    hub = Hub(PATCH, cut=4096)
    assert len(PATCH) > 2 * 4096
    received = 0
    while hub.cut:
        with pytest.raises(UnreachableError, match="broke off"):
            patched(hub, store)
        received += patched.received
        assert leftovers(store) == {f"{WANTED.sha256}.delta"}
        hub.cut = 4096 if received < 2 * 4096 else None
    assert received + patched(hub, store) == len(PATCH)
    rest = {"Range": "bytes=8192-", "If-Range": f'"{WANTED.sha256}-{HELD.sha256}"'}
    assert (hub.asked[0], hub.asked[-1]) == ({}, rest)
    assert leftovers(store) == {f"{WANTED.sha256}.part"}
    store.accept(WANTED)


def test_a_patch_of_which_nothing_comes_gives_way_to_the_whole_file(store):
    with pytest.raises(DeltaError, match="nothing comes"):
        patched(Hub(PATCH, cut=0), store)
    store.part(WANTED).with_suffix(".delta").write_bytes(PATCH[:500])
    with pytest.raises(DeltaError, match="nothing comes"):
        patched(Hub(PATCH, cut=0), store)
    assert patched(Hub(PATCH), store) == len(PATCH) - 500  # what was here was kept all the same


@pytest.mark.parametrize("begun", [b"", bytes(4096), PATCH[:50], OTHER[:4096], FROM_ANOTHER[:4096], PATCH + b"more"])
def test_what_is_no_beginning_of_this_patch_is_not_resumed(store, begun):
    """Nothing of it, unsynced before a power loss, too little to tell, of other files, too much."""
    store.part(WANTED).with_suffix(".delta").write_bytes(begun)
    assert patched(Hub(PATCH), store) == len(PATCH)
    store.accept(WANTED)


def test_a_beginning_whose_middle_a_power_loss_took_costs_the_patch(store):
    torn = PATCH[:2000] + bytes(2000)
    store.part(WANTED).with_suffix(".delta").write_bytes(torn)
    with pytest.raises(DeltaError, match=r"of no use|other bytes"):
        patched(Hub(PATCH), store)
    assert leftovers(store) == set()


def test_another_patch_that_was_begun_stays_while_there_is_none_from_this_file(store):
    begun = store.part(WANTED).with_suffix(".delta")
    begun.write_bytes(FROM_ANOTHER[:4096])
    with pytest.raises(DeltaError, match="HTTP 404"):
        patched(Hub(None), store)
    assert begun.read_bytes() == FROM_ANOTHER[:4096]


def test_a_hub_that_has_another_patch_by_now_or_knows_no_ranges_sends_it_from_its_start(store):
    begun = store.part(WANTED).with_suffix(".delta")
    begun.write_bytes(PATCH[:4096])
    with pytest.raises(DeltaError, match="HTTP 206"):
        patched(Hub(PATCH, announced=len(PATCH) + 1), store)
    assert leftovers(store) == set()
    begun.write_bytes(PATCH[:4096])
    hub = Hub(PATCH)
    hub.ranges = False
    assert patched(hub, store) == len(PATCH)


def test_a_patch_that_was_here_before_the_process_ended_is_not_asked_for(store):
    store.part(WANTED).with_suffix(".delta").write_bytes(PATCH)
    hub = Hub(PATCH)
    assert (patched(hub, store), hub.asked) == (0, [])
    store.accept(WANTED)


def test_a_patch_goes_on_with_the_next_days_budget(store):
    with pytest.raises(FetchError) as caught:
        patched(Hub(PATCH), store, most=100)
    assert caught.value.reason == "budget-spent" and patched.received == 4096
    with pytest.raises(FetchError, match="budget"):
        patched(Hub(PATCH), store, most=0)
    assert patched.received == 0
    assert patched(Hub(PATCH), store, most=len(PATCH) - 4096) == len(PATCH) - 4096  # just enough


def test_a_patch_is_looked_for_from_the_models_own_releases_first():
    """However many other models are here, of the same variant, too."""
    held = {
        model: tuple(
            HeldRelease(release=n, variant=name, manifest=f"{model}{n}") for n, name in ((2, "fp32"), (1, "int8"))
        )
        for model in ("a", "b", "c")
    }
    wanted = StepRequest(step="fetch", model="c", held=HeldRelease(release=3, variant="int8", manifest="c3"))
    assert [release.manifest for release in nearest(wanted, held)] == ["c1", "c2", "a1", "b1", "a2", "b2"]


def ticking(step_s: float):
    """A clock that goes on by `step_s` with every look at it."""
    ticks = itertools.count()
    return lambda: next(ticks) * step_s


def test_a_patch_that_comes_too_slowly_is_left_and_resumed(store):
    with pytest.raises(FetchError, match=r"came at \d+ B/s") as caught:
        patched(Hub(PATCH), store, pace=DownloadPace(grace_s=150.0), now=ticking(100.0))
    assert caught.value.reason == "too-slow" and leftovers(store) == {f"{WANTED.sha256}.delta"}
    assert patched(Hub(PATCH), store) < len(PATCH)


def test_a_patch_that_takes_long_to_apply_is_left(store):
    """A few bytes ask for each of 300,000 bytes by itself, that is for minutes; of a large model, for hours."""
    one_by_one = struct.pack("<3q", 1, 0, 0) * WANTED.size
    hostile = _patch("bsdiff", OLD.tobytes(), NEW.tobytes(), control=one_by_one, diff=(NEW - OLD).tobytes())
    clock = ticking(0.1)
    with pytest.raises(DeltaError, match="takes too long"):
        patched(Hub(hostile), store, apply_s=100.0, now=clock)
    assert clock() < 101 and leftovers(store) == set()


@pytest.mark.parametrize("checks", [1, 2])
def test_a_patch_takes_nothing_of_the_disks_reserve(store, checks):
    """Also when others fill the disk while it comes, or while it is applied."""
    room = iter([10 * WANTED.size] * checks)
    store = Store(store.blobs.parent, reserve=1000, free=lambda folder: next(room, 1000))
    with pytest.raises(DeltaError, match="are free"):
        patched(Hub(PATCH), store)
    assert leftovers(store) == set()
    with pytest.raises(DeltaError, match="of those under way"):
        patched(Hub(PATCH), Store(store.blobs.parent, reserve=0, free=lambda folder: 2 * WANTED.size), beside=1)


def test_a_changed_held_file_gives_no_file(store):
    (store.blobs / HELD.sha256).write_bytes(OLD[::-1].tobytes())
    with pytest.raises(DeltaError, match="other bytes"):
        patched(Hub(PATCH), store)
    assert leftovers(store) == set()


def test_applying_takes_little_memory(tmp_path):
    big = RANDOM.integers(0, 256, 24 << 20, dtype=np.uint8)
    changed = big.copy()
    changed[::5000] += 1
    held, wanted = blob_of(big.tobytes()), blob_of(changed.tobytes())
    store = Store(tmp_path, reserve=0)
    (store.blobs / held.sha256).write_bytes(big.tobytes())
    hub = Hub(_patch("subtract", big.tobytes(), changed.tobytes(), diff=(changed - big).tobytes()))
    tracemalloc.start()
    fetch_delta(hub, store, wanted, held.sha256, Transfer(DownloadPace(), lambda count: None, Budgeted(None)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < wanted.size / 8
    store.accept(wanted)

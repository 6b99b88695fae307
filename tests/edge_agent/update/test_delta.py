"""A model file made from a patch and the file that is here; with any trouble the whole file is fetched."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import struct
import tracemalloc

import numpy as np
import pytest

from edge_agent.errors import DeltaError
from edge_agent.update.child import nearest
from edge_agent.update.delta import fetch_delta
from edge_agent.update.fetch import fetch_blob
from edge_agent.update.lines import Step
from edge_agent.update.machine import Held
from edge_agent.update.pace import Pace
from edge_agent.update.store import Store
from fleet.protocol.manifest import Blob
from model_compiler.delta import _patch, build
from tests.edge_agent.update.test_fetch import Answer

RANDOM = np.random.default_rng(0)
OLD = RANDOM.integers(0, 256, 300_000, dtype=np.uint8)
NEW = OLD.copy()
NEW[::100] += 1


def blob_of(data: bytes) -> Blob:
    return Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


HELD, WANTED = blob_of(OLD.tobytes()), blob_of(NEW.tobytes())


class Hub:
    """Serves one patch and the whole file, and counts what was asked for. Implements `HubStreams`."""

    def __init__(self, patch: bytes | None, *, announced: int | None = None) -> None:
        self.patch, self.announced = patch, announced
        self.asked: list[str] = []

    @contextlib.contextmanager
    def stream(self, method, path, *, headers=None, timeout=30.0):
        self.asked.append(path)
        if "/from/" not in path:
            yield Answer(200, NEW.tobytes(), {}, None)
        elif self.patch is None:
            yield Answer(404, b"", {}, None)
        else:
            length = len(self.patch) if self.announced is None else self.announced
            yield Answer(200, self.patch, {"Content-Length": str(length)}, None)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path, reserve=0)
    (store.blobs / HELD.sha256).write_bytes(OLD.tobytes())
    return store


def patched(hub: Hub, store: Store, most: int | None = None, pace: Pace = Pace(), **times) -> int:  # noqa: B008
    counted: list[int] = []
    try:
        fetch_delta(hub, store, WANTED, HELD.sha256, pace=pace, progress=counted.append, most=most, **times)
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
    fetch_blob(hub, store, WANTED, pace=Pace(), progress=lambda count: None)
    store.accept(WANTED)
    assert (store.blobs / WANTED.sha256).read_bytes() == NEW.tobytes()


def test_what_was_downloaded_before_is_kept_where_the_patch_saves_nothing(store):
    part = store.part(WANTED)
    part.write_bytes(NEW.tobytes()[: WANTED.size - 100])
    with pytest.raises(DeltaError, match="100 are missing"):
        patched(Hub(PATCH), store)
    assert part.stat().st_size == WANTED.size - 100


def test_a_patch_that_todays_budget_does_not_hold_is_not_begun(store):
    with pytest.raises(DeltaError, match="today's budget has 100"):
        patched(Hub(PATCH), store, most=100)
    assert leftovers(store) == set()
    assert patched(Hub(PATCH), store, most=len(PATCH)) == len(PATCH)


def test_a_patch_is_looked_for_from_the_models_own_releases_first():
    """However many other models are here, of the same variant, too."""
    held = {
        model: tuple(Held(release=n, variant=name, manifest=f"{model}{n}") for n, name in ((2, "fp32"), (1, "int8")))
        for model in ("a", "b", "c")
    }
    wanted = Step(step="fetch", model="c", held=Held(release=3, variant="int8", manifest="c3"))
    assert [release.manifest for release in nearest(wanted, held)] == ["c1", "c2", "a1", "b1", "a2", "b2"]


def ticking(step_s: float):
    """A clock that goes on by `step_s` with every look at it."""
    ticks = itertools.count()
    return lambda: next(ticks) * step_s


def test_a_patch_that_would_take_too_long_is_not_begun_or_soon_left(store):
    """It could not be resumed in the next look, as the whole file is."""
    with pytest.raises(DeltaError, match="do not come within 10 s"):
        patched(Hub(PATCH), store, pace=Pace(max_bytes_per_s=len(PATCH) // 11), until=10.0, now=lambda: 0.0)
    assert patched.received == 0
    with pytest.raises(DeltaError, match="do not come within"):
        patched(Hub(PATCH), store, until=10.0, now=lambda: 10.0)
    assert patched.received == 0
    long = Hub(bytes(20 * 4096))
    with pytest.raises(DeltaError, match=r"came at \d+ B/s"):  # one piece per 20 s: seen long before the end
        patched(long, store, until=200.0, now=ticking(20.0))
    assert patched.received <= 4096 and leftovers(store) == set()


def test_a_patch_that_takes_long_to_apply_is_left(store):
    """A few bytes ask for each of 300,000 bytes by itself, that is for minutes; of a large model, for hours."""
    one_by_one = struct.pack("<3q", 1, 0, 0) * WANTED.size
    hostile = _patch("bsdiff", OLD.tobytes(), NEW.tobytes(), control=one_by_one, diff=(NEW - OLD).tobytes())
    clock = ticking(0.1)
    with pytest.raises(DeltaError, match="takes too long"):
        patched(Hub(hostile), store, until=100.0, now=clock)
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
    fetch_delta(hub, store, wanted, held.sha256, pace=Pace(), progress=lambda count: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < wanted.size / 8
    store.accept(wanted)

"""Attacks on the signed repository, one test each: nothing is accepted, the reason has a name, and the
next honest look works. The repository is the hub's own; what lies between it and the device is hostile."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from cloud_hub.identity.first_contact import FIRST_ROOT
from cloud_hub.opening.bootstrap import open_publisher
from cloud_hub.trust import ceremony
from edge_agent.errors import AgentError, ConflictError, FetchError, RefusedError, TrustError, UnreachableError
from edge_agent.update.disk.store import Store
from edge_agent.update.download.throttle import DownloadPace, paced
from edge_agent.update.messages import LookRequest, Refusal
from edge_agent.update.worker.resolve_targets import looked, offers
from edge_agent.update.worker.tuf_client import Fetcher, TimeFloor, opened
from fleet.protocol.channel import Channel, ModelEntry
from fleet.protocol.messages import DeviceMe
from tests.support.faults.forge import Forge, stolen
from tests.support.hub import PASSPHRASE, START, HubFixture, make_hub

DAY = 86_400.0
TIMESTAMP = "tuf/metadata/timestamp.json"


class Answer:
    """An HTTP answer whose body comes in pieces."""

    def __init__(self, status: int, pieces: Iterator[bytes]) -> None:
        self.status, self._pieces, self.sent = status, pieces, 0

    def read1(self, size: int = -1) -> bytes:
        piece = next(self._pieces, b"")
        self.sent += len(piece)
        return piece


class Between:
    """Serves the hub's objects; `lies` replaces what is answered for a path. Implements `HubStreams`."""

    def __init__(self, hub: HubFixture) -> None:
        self._objects = hub.hub.objects
        self.lies: dict[str, Callable[[], Answer]] = {}
        self.answers: list[Answer] = []

    @contextlib.contextmanager
    def stream(self, method, path, *, headers=None, timeout=30.0):
        key = path.lstrip("/")
        if key in self.lies:
            answer = self.lies[key]()
        elif self._objects.exists(key):
            answer = Answer(200, iter([self._objects.get(key).data]))
        else:
            answer = Answer(404, iter(()))
        self.answers.append(answer)
        yield answer

    def show(self, files: Mapping[str, bytes]) -> None:
        """Answer every path that `files` has with them."""
        for key, data in files.items():
            self.lie(key, data)

    def lie(self, key: str, data: bytes, status: int = 200) -> None:
        self.lies[key] = lambda: Answer(status, iter([data]))


class World:
    """A hub with two releases, and a device's metadata directory."""

    def __init__(self, directory: Path) -> None:
        self.hub = make_hub(directory)
        self.hub.model()
        self.hub.release()
        self.between = Between(self.hub)
        self.root = self.hub.hub.objects.get(FIRST_ROOT).data
        self.tuf = directory / "device" / "tuf"
        self.store = Store(directory / "device", reserve=0)
        self.now = START + 60

    @contextlib.contextmanager
    def look(self, pace: DownloadPace | None = None):
        floor = TimeFloor(self.tuf.parent / "time-floor")
        fetcher = Fetcher(self.between, pace or DownloadPace())
        with opened(self.tuf, self.root, fetcher, floor, clock=lambda: self.now) as trusted:
            yield trusted

    def read(self, path: str = "models/digits/1.json") -> bytes | None:
        with self.look() as trusted:
            return trusted.read(path, 1 << 20)

    def forge(self, *, rotated: bool = False) -> Forge:
        """The repository as it is, with the hub's keys, or those that a rotation replaced, in a thief's hands."""
        objects, config = self.hub.hub.objects, self.hub.hub.config
        files = {info.key: objects.get(info.key).data for info in objects.list("tuf")}
        return Forge(files, stolen(config.keys_dir, self.hub.offline, PASSPHRASE, before_rotation=rotated))

    def rotate(self, *names: str) -> None:
        """Replace keys by a new root, as an operator does after a theft."""
        config, clock = self.hub.hub.config, self.hub.clock
        for name in names:
            transactions = open_publisher(config, clock=clock).transactions
            ceremony.rotate(transactions, name, config.keys_dir, self.hub.offline, PASSPHRASE)

    def data(self, key: str) -> bytes:
        return self.hub.hub.objects.get(key).data


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _manifest(world: World, number: int) -> str:
    keys = (info.key for info in world.hub.hub.objects.list("tuf/targets/models/digits"))
    return next(key for key in keys if key.endswith(f".{number}.json"))


def refused(world: World, kind: type[AgentError], reason: str | None = None) -> AgentError:
    """The look fails, twice (the second time after a restart of the client), and works again without lies."""
    for _ in range(2):
        with pytest.raises(kind) as caught:
            world.read()
    if reason is not None:
        assert caught.value.reason == reason
    world.between.lies.clear()
    assert world.read() is not None
    return caught.value


def test_an_older_timestamp_is_refused_also_by_a_restarted_client(world):
    old = world.data(TIMESTAMP)
    world.hub.release(seed=1)
    assert world.read("models/digits/2.json") is not None
    world.between.lie(TIMESTAMP, old)
    assert "version" in str(refused(world, TrustError)).lower()


def test_a_timestamp_with_a_broken_signature_is_refused(world):
    document = msgspec.json.decode(world.data(TIMESTAMP))
    document["signed"]["version"] += 1
    world.between.lie(TIMESTAMP, msgspec.json.encode(document))
    refused(world, TrustError)


def test_metadata_of_another_repository_is_refused(world, tmp_path):
    other = make_hub(tmp_path / "other")
    world.between.lie(TIMESTAMP, other.hub.objects.get(TIMESTAMP).data)
    refused(world, TrustError)


def test_a_login_page_is_no_metadata(world):
    world.between.lie(TIMESTAMP, b"<html>Welcome to the hotel. Please log in.</html>")
    refused(world, TrustError)


@pytest.mark.parametrize(
    ("status", "kind", "reason", "hint"),
    [
        (302, FetchError, "fetch-failed", "login"),
        (404, FetchError, "not-found", "whole"),
        (403, FetchError, "fetch-failed", "revoked"),
        (429, UnreachableError, "unreachable", "busy or down"),
        (503, UnreachableError, "unreachable", "busy or down"),
    ],
)
def test_an_answer_that_is_not_the_file_says_what_may_be_wrong(world, status, kind, reason, hint):
    world.between.lie(TIMESTAMP, b"", status=status)
    error = refused(world, kind, reason)
    assert hint in error.hint and f"HTTP {status}" in str(error)


def test_endless_data_is_cut_at_the_limit(world):
    world.between.lies[TIMESTAMP] = lambda: Answer(200, itertools.repeat(b"x" * 4096))
    with pytest.raises(FetchError, match=r"."):
        world.read()
    assert max(answer.sent for answer in world.between.answers) <= 16_384 + 65_536
    world.between.lies.clear()
    assert world.read() is not None


def test_a_manifest_that_was_changed_on_the_way_is_not_read(world):
    (key,) = [
        info.key for info in world.hub.hub.objects.list("tuf/targets/models/digits") if info.key.endswith(".1.json")
    ]
    world.between.lie(key, world.data(key).replace(b'"schema":1', b'"schema":2'))
    with pytest.raises(AgentError):
        world.read()
    world.between.lies.clear()
    assert world.read() == world.data(key)


def test_a_release_that_nobody_signed_is_refused_by_name(world):
    world.hub.hub.objects.put_new("tuf/targets/models/digits/" + "a" * 64 + ".9.json", b"{}")
    channel = Channel(channel="stable", version=1, models={"digits": ModelEntry(release=9)})
    mine = DeviceMe(device_id="d", channel="stable")
    asked = LookRequest(device_id="d", channel="stable", kinds=("litert", "onnx"))
    with world.look() as trusted:
        (found,) = offers(trusted, channel, mine, asked, world.store)
    assert isinstance(found, Refusal) and (found.release, found.reason) == (9, "unsigned")


def test_a_withdrawn_release_is_refused_by_the_signed_floor(world):
    world.hub.release(seed=1)
    world.hub.hub.publisher.withdraw("digits", 1, "labels swapped", actor="test")
    channel = Channel(channel="stable", version=1, models={"digits": ModelEntry(release=1)})
    asked = LookRequest(device_id="d", channel="stable", kinds=("litert", "onnx"))
    with world.look() as trusted:
        (found,) = offers(trusted, channel, DeviceMe(device_id="d", channel="stable"), asked, world.store)
    assert isinstance(found, Refusal) and found.reason == "withdrawn"


def test_expired_metadata_gives_a_view_that_installs_nothing_new(world):
    assert world.read() is not None
    world.now += 60 * DAY
    with world.look() as trusted:
        assert trusted.problem == "expired-metadata"
        assert trusted.read("models/digits/1.json", 1 << 20) is not None
    channel = Channel(channel="stable", version=1, models={"digits": ModelEntry(release=1)})
    asked = LookRequest(device_id="d", channel="stable", kinds=("litert", "onnx"))
    with world.look() as trusted:
        (found,) = offers(trusted, channel, DeviceMe(device_id="d", channel="stable"), asked, world.store)
    assert isinstance(found, Refusal) and found.reason == "expired-metadata"
    world.hub.clock.advance(60 * DAY)
    world.hub.hub.publisher.refresh(force=True)
    with world.look() as trusted:
        assert trusted.problem == ""


@pytest.mark.parametrize("now", [0.0, START - 30 * DAY])
def test_a_clock_behind_the_time_floor_installs_nothing_new(world, now):
    assert world.read() is not None
    world.now = now
    with world.look() as trusted:
        assert trusted.problem == "clock-untrusted"
    world.now = START + 120
    with world.look() as trusted:
        assert trusted.problem == ""


def test_a_clock_that_ran_ahead_does_not_make_the_right_time_wrong(world):
    world.now = START + 3 * DAY
    assert world.read() is not None
    world.now = START + 120
    with world.look() as trusted:
        assert trusted.problem == ""


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "models"])
def test_a_signature_covers_every_byte_that_is_read(world, role):
    """A11: one bit at a time; what is not refused says the same."""
    forge = world.forge()
    key, path = forge.key(role), "models/digits/1.json"
    good, wanted = world.data(key), world.data(_manifest(world, 1))
    rng = random.Random(1)
    for at in {len(good) - 1, *(rng.randrange(len(good)) for _ in range(12))}:
        shutil.rmtree(world.tuf, ignore_errors=True)
        world.between.lie(key, good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :])
        try:
            assert world.read(path) == wanted
        except TrustError as error:
            assert error.reason == "untrusted-metadata"
    world.between.lies.clear()
    assert world.read(path) == wanted


@pytest.mark.parametrize("evil_first", [True, False])
def test_a_document_with_two_bodies_is_read_by_the_one_that_is_signed(world, evil_first):
    """A11: JSON lets a name come twice; what was verified is what counts."""
    good = world.data(TIMESTAMP)
    body = msgspec.json.encode(msgspec.json.decode(good)["signed"])
    evil = body.replace(b'"version":', b'"version":1')
    assert evil != body
    twice = b'"signed":%s,"signed":%s' % ((evil, body) if evil_first else (body, evil))
    world.between.lie(TIMESTAMP, good.partition(b'"signed"')[0] + twice + b"}")
    if evil_first:
        with world.look() as trusted:
            assert trusted.versions["timestamp"] == msgspec.json.decode(body)["version"]
    else:
        refused(world, TrustError, "untrusted-metadata")


def test_a_channel_that_breaks_its_bounds_is_refused_by_name(world):
    forge = world.forge()
    forge.target("channels", "channels/stable.json", b'{"channel":"stable","version":%d}' % 2**64)
    world.between.show(forge.seal().files)
    asked = LookRequest(device_id="d", channel="stable", kinds=("litert", "onnx"))
    with world.look() as trusted, pytest.raises(RefusedError) as caught:
        looked(trusted, DeviceMe(device_id="d", channel="stable"), asked)
    assert caught.value.reason == "bad-channel" and caught.value.hint


def test_a_second_instance_is_refused(world):
    with world.look(), pytest.raises(ConflictError, match="another updater"), world.look():
        pass
    assert world.read() is not None


def test_old_metadata_survives_a_look_that_failed_half_way(world):
    """The snapshot is missing after a new timestamp was seen: the next look goes on from there."""
    assert world.read() is not None
    world.hub.release(seed=1)
    (newest,) = sorted(i.key for i in world.hub.hub.objects.list("tuf/metadata") if "snapshot" in i.key)[-1:]
    world.between.lie(newest, b"", status=503)
    with pytest.raises(UnreachableError):
        world.read()
    world.between.lies.clear()
    assert world.read("models/digits/2.json") is not None


@pytest.mark.parametrize("pace", [DownloadPace(deadline_s=10.0), DownloadPace(min_bytes_per_s=1024.0, grace_s=5.0)])
def test_a_server_that_drips_is_left(pace):
    """One byte every two seconds: cut at the deadline, or when the mean speed is too low."""
    clock = itertools.count(step=2)
    pieces = paced(lambda _: b"x", pace, subject="timestamp", now=lambda: float(next(clock)))
    with pytest.raises(FetchError) as caught:
        for _ in range(100):
            next(pieces)
    assert caught.value.reason == "too-slow"
    assert next(clock) <= 16

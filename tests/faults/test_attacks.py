"""The attacks on an update that `tests/edge_agent/update/test_attacks.py` leaves out, each once.

In every case the device's running model is unchanged, the reason has a name, and the next honest look works.
A1 to A16 are the numbers of the list in `docs/reliability.md`.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_agent.errors import AgentError, FetchError
from edge_agent.identity.http import HubHttp
from edge_agent.update.download.fetch import fetch_blob
from edge_agent.update.download.throttle import DownloadPace
from edge_agent.update.messages import LookRequest, Refusal
from edge_agent.update.worker.resolve_targets import offers
from edge_agent.update.worker.tuf_client import Fetcher, TimeFloor, opened
from fleet.protocol.channel import Channel, ModelEntry, RolloutRef, Rule
from fleet.protocol.codec import encode_json
from fleet.protocol.manifest import Blob
from fleet.protocol.messages import DeviceMe, NonceResponse, TokenResponse
from tests.edge_agent.update.test_attacks import TIMESTAMP, Answer, World, refused
from tests.support.agent_process import enrolled
from tests.support.faults.attacks import packed, quickly, slowly

pytestmark = pytest.mark.fault

SLACK = 64 << 10  # bytes that may be under way when a limit strikes


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Release 1, seen by the device, then release 2, not seen yet."""
    made = World(tmp_path)
    assert made.read() is not None
    made.hub.release(seed=1)
    return made


def metadata(world: World, role: str) -> list[str]:
    """The keys of a role's versions, oldest first."""
    keys = [info.key for info in world.hub.hub.objects.list("tuf/metadata") if info.key.endswith(f".{role}.json")]
    return sorted(keys, key=lambda key: int(key.rsplit("/", 1)[1].split(".")[0]))


def offered(world: World, entry: ModelEntry, mine: DeviceMe | None = None) -> list[object]:
    """The acts to which a hub whose online key was stolen gets a device: its channel may say anything."""
    channel = Channel(channel="stable", version=99, models={"digits": entry})
    asked = LookRequest(device_id="d", channel="stable", kinds=("litert", "onnx"))
    with world.look() as trusted:
        return list(offers(trusted, channel, mine or DeviceMe(device_id="d", channel="stable"), asked, world.store))


# ---- A2, A7: old and mixed metadata ------------------------------------------------------------


@pytest.mark.parametrize("role", ["snapshot", "models"])
def test_an_older_file_under_a_newer_name_is_refused(world: World, role: str) -> None:
    """A2 and A7: rollback of one role beside honest others, which is also mixing versions."""
    old, *_, new = metadata(world, role)
    world.between.lie(new, world.data(old))
    refused(world, AgentError)
    assert world.read("models/digits/2.json") is not None


def test_one_models_manifest_does_not_pass_for_another_release(world: World) -> None:
    """A7: a signed manifest under the name of another one."""
    keys = [info.key for info in world.hub.hub.objects.list("tuf/targets/models/digits")]
    one = next(key for key in keys if key.endswith(".1.json"))
    two = next(key for key in keys if key.endswith(".2.json"))
    world.between.lie(two, world.data(one))
    with pytest.raises(AgentError):
        world.read("models/digits/2.json")
    world.between.lies.clear()
    assert world.read("models/digits/2.json") == world.data(two)


# ---- A5: endless data --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["root", "timestamp", "snapshot", "models", "target"])
def test_endless_data_is_cut_for_every_kind_of_file(world: World, kind: str) -> None:
    target = next(i.key for i in world.hub.hub.objects.list("tuf/targets/models/digits") if i.key.endswith(".2.json"))
    key, limit = {
        "root": ("tuf/metadata/2.root.json", 512_000),
        "timestamp": (TIMESTAMP, 16_384),
        "snapshot": (metadata(world, "snapshot")[-1], 2_000_000),
        "models": (metadata(world, "models")[-1], 5_000_000),
        "target": (target, 1 << 20),
    }[kind]
    world.between.lies[key] = lambda: Answer(200, itertools.repeat(b"x" * 4096))
    with pytest.raises(AgentError):
        world.read("models/digits/2.json")
    assert 0 < max(answer.sent for answer in world.between.answers) <= limit + SLACK
    held = sum(path.stat().st_size for path in world.tuf.parent.rglob("*") if path.is_file())
    assert held <= 1 << 20  # nothing of it stays on the disk
    world.between.lies.clear()
    assert world.read("models/digits/2.json") is not None


# ---- A8: the hub's online key is stolen; the offline key's floor holds --------------------------


@pytest.mark.parametrize(
    "entry",
    [
        ModelEntry(release=1),
        ModelEntry(release=2, rules=(Rule(groups=("g",), release=1),)),
        ModelEntry(
            release=2,
            rollout=RolloutRef(id="r", attempt=1, release=1, from_release=2, share_ppm=1_000_000, salt="s"),
        ),
    ],
    ids=["default", "rule", "rollout"],
)
@pytest.mark.parametrize("how", ["floor", "withdrawn"])
def test_nothing_below_the_signed_floor_is_offered_whatever_the_channel_says(world: World, entry, how) -> None:
    publisher = world.hub.hub.publisher
    if how == "floor":
        publisher.set_floor("digits", 2, actor="test")
    else:
        publisher.withdraw("digits", 1, "labels swapped", actor="test")
    found = offered(world, entry, DeviceMe(device_id="d", channel="stable", groups=("g",)))
    for message in found:
        number = message.release if isinstance(message, Refusal) else message.target.held.release
        assert isinstance(message, Refusal) or number == 2
    # A rollout needs its `from` committed here: this device stays with the default.
    words = {message.reason for message in found if isinstance(message, Refusal)}
    assert words == (set() if entry.rollout else {"below-floor" if how == "floor" else "withdrawn"})


def test_a_pin_does_not_reach_below_the_floor(world: World) -> None:
    world.hub.hub.publisher.set_floor("digits", 2, actor="test")
    pinned = DeviceMe(device_id="d", channel="stable", pins={"digits": 1})
    (found,) = offered(world, ModelEntry(release=2), pinned)
    assert isinstance(found, Refusal) and (found.release, found.reason) == (1, "below-floor")


def test_an_older_floor_is_not_taken_back(world: World) -> None:
    """A8 with A2: the floor file itself is rolled back."""
    (old,) = [i.key for i in world.hub.hub.objects.list("tuf/targets/models/digits") if "floor" in i.key] or [""]
    world.hub.hub.publisher.set_floor("digits", 2, actor="test")
    new = next(
        i.key
        for i in world.hub.hub.objects.list("tuf/targets/models/digits")
        if "floor" in i.key and b'"min_release":2' in world.data(i.key)
    )
    assert old and new != old
    world.between.lie(new, world.data(old))
    (found,) = offered(world, ModelEntry(release=1))
    assert isinstance(found, Refusal) and found.reason == "untrusted-metadata"
    world.between.lies.clear()
    (found,) = offered(world, ModelEntry(release=1))
    assert isinstance(found, Refusal) and found.reason == "below-floor"


# ---- A6 and redirects, over real sockets --------------------------------------------------------


class Hostile(BaseHTTPRequestHandler):
    """Logs the device in; answers metadata as its server's `answer` does."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        nonce = NonceResponse(nonce="n" * 32, expires_in_s=60)
        self.whole(encode_json(nonce if "nonce" in self.path else TokenResponse(token="t" * 32, expires_in_s=3600)))

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.answer(self)

    def whole(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def hostile(answer) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    server.answer, server.asked = answer, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def looked_at(server: ThreadingHTTPServer, world: World, pace: DownloadPace) -> AgentError:
    """The error of a look at `server` by a device that has seen release 1."""
    directory = enrolled(world.tuf.parent / "agent", hub=f"http://127.0.0.1:{server.server_port}")
    fetcher = Fetcher(HubHttp(directory), pace)
    floor = TimeFloor(world.tuf.parent / "time-floor")
    with (
        pytest.raises(AgentError) as caught,
        opened(world.tuf, world.root, fetcher, floor, clock=lambda: world.now),
    ):
        pass
    return caught.value


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_leads_nowhere(world: World, status: int) -> None:
    with hostile(lambda handler: handler.whole(b"{}")) as elsewhere:

        def redirect(handler: Hostile) -> None:
            handler.send_response(status)
            handler.send_header("location", f"http://127.0.0.1:{elsewhere.server_port}/tuf/metadata/timestamp.json")
            handler.send_header("content-length", "0")
            handler.end_headers()

        with hostile(redirect) as server:
            assert isinstance(looked_at(server, world, DownloadPace()), FetchError)
            assert server.asked
        assert elsewhere.asked == []
    assert world.read("models/digits/2.json") is not None


def test_a_server_that_drips_is_left_long_before_it_is_done(world: World) -> None:
    whole_s, every_s = 60.0, 0.05

    def drip(handler: Hostile) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(int(whole_s / every_s)))
        handler.end_headers()
        with contextlib.suppress(OSError):  # the device has left
            for _ in range(int(whole_s / every_s)):
                handler.wfile.write(b" ")
                time.sleep(every_s)  # the attack itself

    start = time.monotonic()
    with hostile(drip) as server:
        error = looked_at(server, world, DownloadPace(min_bytes_per_s=1000.0, grace_s=0.5))
    assert error.reason == "too-slow"
    assert time.monotonic() - start < whole_s / 4
    assert world.read("models/digits/2.json") is not None


@pytest.mark.parametrize("asked", ["metadata", "device/me", "blob"])
@pytest.mark.parametrize("pieces", [lambda: itertools.islice(quickly(), 64), lambda: slowly(0.5)], ids=["A5", "A6"])
def test_an_answer_that_unpacks_to_nothing_is_refused_by_name(world: World, pieces, asked: str) -> None:
    """A5 and A6: no limit, no deadline and no speed would bind it, since nothing whole ever comes."""
    with hostile(packed(pieces())) as server:
        if asked == "metadata":
            error = looked_at(server, world, DownloadPace())
        else:
            device = HubHttp(enrolled(world.tuf.parent / "agent", hub=f"http://127.0.0.1:{server.server_port}"))
            with pytest.raises(AgentError) as caught:
                if asked == "device/me":
                    device.request("GET", "/device/me")
                else:
                    blob = Blob(sha256="0" * 64, size=1 << 20)
                    fetch_blob(device, world.store, blob, pace=DownloadPace(), progress=lambda count: None)
            error = caught.value
    assert (error.reason, "packed ('gzip')" in str(error)) == ("unreachable", True)
    assert "proxy" in error.hint


# ---- A12: names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["models/../../etc/1.json", "models/%2e%2e/1.json", "/etc/passwd", "models/digits/..\\1.json", "a" * 300]
)
def test_a_target_name_never_leaves_the_devices_folder(world: World, tmp_path: Path, path: str) -> None:
    """A12: names that nobody signed; nothing is asked for, nothing is written outside."""
    before = {p for p in tmp_path.rglob("*") if world.tuf.parent not in p.parents}
    assert world.read(path) is None
    assert {p for p in tmp_path.rglob("*") if world.tuf.parent not in p.parents} == before

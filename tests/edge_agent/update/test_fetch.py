"""A download that was cut goes on where it stopped, and says so on the wire."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import pytest

from edge_agent.errors import AgentError, DiskFullError, FetchError, UnreachableError
from edge_agent.update.disk.store import Store
from edge_agent.update.download.fetch import fetch_blob
from edge_agent.update.download.throttle import DownloadPace
from fleet.protocol.manifest import Blob

DATA = bytes(range(256)) * 400
BLOB = Blob(sha256=hashlib.sha256(DATA).hexdigest(), size=len(DATA))


class Answer:
    def __init__(self, status: int, body: bytes, headers: dict[str, str], cut: int | None) -> None:
        self.status, self.headers = status, headers
        self._pieces = self._cut(body, cut)

    def _cut(self, body: bytes, cut: int | None) -> Iterator[bytes]:
        for start in range(0, len(body), 4096):
            if cut is not None and start >= cut:
                raise UnreachableError("the connection broke off")
            yield body[start : start + 4096]

    def read1(self, size: int = -1) -> bytes:
        return next(self._pieces, b"")


class Server:
    """Serves DATA by range; `cut` breaks an answer off after that many bytes. Implements `HubStreams`."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data, self.cut, self.ranges, self.status = data, None, True, 0
        self.asked: list[dict[str, str]] = []

    @contextlib.contextmanager
    def stream(self, method, path, *, headers=None, timeout=30.0):
        self.asked.append(dict(headers or {}))
        start = int((headers or {}).get("Range", "bytes=0-")[6:-1]) if self.ranges else 0
        extra = {"Content-Range": f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"} if start else {}
        yield Answer(self.status or (206 if start else 200), self.data[start:], extra, self.cut)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, reserve=0)


def fetch(server: Server, store: Store) -> int:
    counted: list[int] = []
    try:
        fetch_blob(server, store, BLOB, pace=DownloadPace(), progress=counted.append)
    finally:
        fetch.bytes = sum(counted)
    return fetch.bytes


def test_a_cut_download_resumes_and_no_byte_comes_twice(store):
    server = Server()
    server.cut = 40_960
    with pytest.raises(AgentError):
        fetch(server, store)
    first = fetch.bytes
    assert 0 < first <= 40_960 == store.part(BLOB).stat().st_size
    server.cut = None
    assert first + fetch(server, store) == len(DATA)
    assert server.asked[1] == {"Range": "bytes=40960-", "If-Range": f'"{BLOB.sha256}"'}
    store.accept(BLOB)
    assert store.has(BLOB)


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (404, FetchError, "not-found"),
        (302, FetchError, "fetch-failed"),
        (416, FetchError, "fetch-failed"),
        (503, UnreachableError, "unreachable"),
    ],
)
def test_an_answer_that_is_no_file_says_what_may_be_wrong(store, status, kind, reason):
    server = Server()
    server.status = status
    with pytest.raises(kind, match=f"HTTP {status}") as caught:
        fetch(server, store)
    assert caught.value.reason == reason and caught.value.hint


def test_a_server_that_ignores_ranges_sends_the_whole_and_it_is_right(store):
    server = Server()
    server.cut = 8192
    with pytest.raises(AgentError):
        fetch(server, store)
    server.cut, server.ranges = 4096, False
    with pytest.raises(AgentError):
        fetch(server, store)
    assert store.part(BLOB).read_bytes() == DATA[:8192]  # what is here stays where an answer breaks off before it
    server.cut = 40_960
    with pytest.raises(AgentError):
        fetch(server, store)
    assert fetch.bytes == store.part(BLOB).stat().st_size == 40_960
    server.cut = None
    assert fetch(server, store) == len(DATA)
    store.accept(BLOB)
    assert store.has(BLOB)


def test_a_server_that_sends_too_much_takes_nothing_of_what_is_here(store):
    store.part(BLOB).write_bytes(DATA[:5000])
    server = Server(DATA + b"x")
    server.ranges = False
    with pytest.raises(FetchError, match="larger than"):
        fetch(server, store)
    assert store.part(BLOB).read_bytes() == DATA[:5000]


def test_more_than_was_signed_is_refused(store):
    with pytest.raises(FetchError, match=r"."):
        fetch(Server(DATA + b"x"), store)
    assert not store.has(BLOB)


def test_other_bytes_of_the_same_length_are_thrown_away(store):
    fetch(Server(DATA[::-1]), store)
    with pytest.raises(AgentError):
        store.accept(BLOB)
    assert not store.part(BLOB).exists() and not store.has(BLOB)


def test_a_disk_that_fills_up_meanwhile_keeps_its_reserve_and_the_error_says_what_is_missing(tmp_path):
    size, reserve = 80_000, 20_000

    def free(folder):
        return size - sum(path.stat().st_size for path in folder.iterdir())

    store = Store(tmp_path, reserve=reserve, free=free)
    with pytest.raises(DiskFullError) as caught:
        fetch(Server(), store)
    here = store.part(BLOB).stat().st_size
    assert size - reserve - 4096 < here <= size - reserve
    assert f"needs {BLOB.size - here + reserve} bytes, {size - here} are free" in str(caught.value)
    assert caught.value.hint == f"free {BLOB.size + reserve - size} bytes on the device"
    size += 100_000
    assert fetch(Server(), store) == BLOB.size - here


def test_what_is_here_is_not_fetched_again(store):
    fetch(Server(), store)
    store.accept(BLOB)
    server = Server()
    assert fetch(server, store) == 0 and server.asked == []

"""Mirrors before the hub: on real sockets and in folders, honest, away, broken and lying."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edge_agent.config import check_mirror, load_config
from edge_agent.errors import AgentError, CorruptBlobError, FetchError, UnreachableError, UsageError
from edge_agent.update.disk.store import Store
from edge_agent.update.download.sources import Folder, HttpMirror, Sources, mirrors
from edge_agent.update.download.throttle import DownloadPace, paced
from edge_agent.update.download.transfer import Budgeted, Transfer
from fleet.protocol.manifest import Blob

DATA = os.urandom(300_000)
BLOB = Blob(sha256=hashlib.sha256(DATA).hexdigest(), size=len(DATA))
PATH = f"/blobs/{BLOB.sha256}"


class Site:
    """The answers of a web server on loopback; `seen` are the headers of every request.

    Like nginx or S3 it has an entity tag of its own, and sends the whole file where `If-Range` names another one.
    """

    etag = '"66f0c0de-493e0"'

    def __init__(self, data: bytes = DATA, *, status: int = 200, cut: int | None = None, headers=()) -> None:
        self.data, self.status, self.cut, self.headers = data, status, cut, dict(headers)
        self.seen: list[dict[str, str]] = []
        self.sent = 0
        self.url = ""


class HubSite(Site):
    """The answers of a hub: its entity tag is the blob's hash."""

    etag = f'"{BLOB.sha256}"'


@contextlib.contextmanager
def served(*sites: Site):
    with contextlib.ExitStack() as stack:
        for site in sites:
            stack.enter_context(_served(site))
        yield


@contextlib.contextmanager
def _served(site: Site):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.seen.append(dict(self.headers))
            same = self.headers.get("If-Range") in (None, site.etag)
            first = int(self.headers.get("Range", "bytes=0-")[6:-1]) if same else 0
            status = 206 if first and site.status == 200 else site.status
            body = site.data[first:] if status in (200, 206) else b""
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{len(site.data) - 1}/{len(site.data)}")
            self.send_header("ETag", site.etag)
            self.send_header("Content-Length", str(len(body)))
            for name, value in site.headers.items():
                self.send_header(name, value)
            self.end_headers()
            body = body if site.cut is None else body[: site.cut]
            site.sent += len(body)
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *arguments) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "device", reserve=0)


def get(sources: Sources, store: Store, allowance: int | None = None) -> int:
    counted: list[int] = []
    get.received = 0
    try:
        sources.fetch(store, BLOB, Transfer(DownloadPace(), counted.append, Budgeted(allowance), gap_timeout_s=5.0))
    finally:
        get.received = sum(counted)
    return get.received


def folder(tmp_path, data: bytes | None = DATA) -> str:
    (tmp_path / "usb stick" / "blobs").mkdir(parents=True)
    if data is not None:
        (tmp_path / "usb stick" / "blobs" / BLOB.sha256).write_bytes(data)
    return (tmp_path / "usb stick").as_uri()


def test_the_first_mirror_that_has_it_is_enough_and_gets_no_token(store):
    first, hub = Site(), HubSite()
    with served(first, hub):
        assert get(Sources(mirrors([first.url + "/"]), HttpMirror(hub.url)), store) == len(DATA)
    assert store.has(BLOB) and hub.seen == []
    store.verify(BLOB)
    assert {name.lower() for name in first.seen[0]}.isdisjoint({"authorization", "cookie"})


@pytest.mark.parametrize(
    "bad",
    [
        Site(status=404),
        Site(status=503),
        Site(status=302, headers={"Location": "http://127.0.0.1:9/"}),
        Site(DATA[:-1]),
        Site(DATA + b"x"),
        Site(b"<html>please log in</html>", headers={"Content-Type": "text/html"}),
        Site(DATA[::-1]),
    ],
    ids=["404", "503", "redirect", "short", "long", "login page", "wrong bytes"],
)
def test_a_mirror_that_cannot_serve_it_gives_way_to_the_next(store, bad):
    second, hub = Site(), HubSite()
    with served(bad, second, hub):
        get(Sources(mirrors([bad.url, second.url]), HttpMirror(hub.url)), store)
    store.verify(BLOB)
    assert len(bad.seen) == 1 and second.sent == len(DATA) and hub.seen == []


def test_nobody_at_the_mirror(store):
    hub = HubSite()
    with served(hub):
        get(Sources(mirrors(["http://127.0.0.1:9/"]), HttpMirror(hub.url)), store)
    store.verify(BLOB)


def test_what_a_mirror_sent_before_it_broke_off_is_resumed_elsewhere(store):
    first, hub = Site(cut=200_000), HubSite()
    with served(first, hub):
        assert get(Sources(mirrors([first.url]), HttpMirror(hub.url)), store) == len(DATA)
    store.verify(BLOB)
    assert hub.seen[0]["Range"] == "bytes=200000-" and hub.sent == len(DATA) - 200_000


def test_an_ordinary_web_server_on_a_link_that_breaks_off_sends_every_byte_once(store):
    site = Site(cut=90_000)
    with served(site):
        for look in range(1, 4):
            with pytest.raises(AgentError):
                get(Sources(mirrors([site.url]), HttpMirror("http://127.0.0.1:9")), store)
            assert store.part(BLOB).stat().st_size == look * 90_000
        get(Sources(mirrors([site.url]), HttpMirror("http://127.0.0.1:9")), store)
    store.verify(BLOB)
    assert site.sent == len(DATA)


def test_half_a_wrong_file_does_not_keep_the_right_one_away(store):
    liar, hub = Site(bytes(len(DATA)), cut=200_000), HubSite()
    with served(liar, hub):
        get(Sources(mirrors([liar.url]), HttpMirror(hub.url)), store)
    store.verify(BLOB)
    assert hub.sent == len(DATA) - 200_000 + len(DATA)


def test_a_mirror_with_a_wrong_file_is_not_asked_again_in_this_cycle(store):
    liar, hub = Site(DATA[::-1]), HubSite(status=503)
    with served(liar, hub):
        sources = Sources(mirrors([liar.url]), HttpMirror(hub.url))
        for _ in range(3):
            with pytest.raises(UnreachableError, match="503"):
                get(sources, store)
        assert (len(liar.seen), len(hub.seen)) == (1, 3)
        assert not store.part(BLOB).exists()
        with pytest.raises(UnreachableError, match="503"):
            get(Sources(mirrors([liar.url]), HttpMirror(hub.url)), store)
        assert len(liar.seen) == 2


def test_the_hubs_own_wrong_file_is_said(store, tmp_path):
    hub = HubSite(DATA[::-1])
    with served(hub), pytest.raises(CorruptBlobError):
        get(Sources(mirrors([folder(tmp_path, None)]), HttpMirror(hub.url)), store)
    assert not store.has(BLOB) and not store.part(BLOB).exists()


def test_a_wrong_start_from_an_earlier_look_costs_no_further_one(store):
    """Without mirrors, too: somebody in the hub's place sent the first bytes, the hub itself sends the rest."""
    hub = HubSite()
    with served(hub):
        store.part(BLOB).write_bytes(bytes(1000))
        get(Sources((), HttpMirror(hub.url)), store)
    assert [headers.get("Range") for headers in hub.seen] == ["bytes=1000-", None]
    assert (store.blobs / BLOB.sha256).read_bytes() == DATA


def test_a_folder_is_read_resumed_and_costs_no_budget(store, tmp_path):
    url, hub = folder(tmp_path), HubSite()
    store.part(BLOB).write_bytes(DATA[:100_001])
    with served(hub):
        assert get(Sources(mirrors([url]), HttpMirror(hub.url)), store, allowance=0) == 0
    store.verify(BLOB)
    assert hub.seen == []


def test_a_pipe_or_a_folder_of_that_name_in_a_folder_mirror_blocks_nothing(store, tmp_path):
    url, hub = folder(tmp_path, None), HubSite()
    named = tmp_path / "usb stick" / "blobs" / BLOB.sha256
    with served(hub):
        sources = Sources(mirrors([url]), HttpMirror(hub.url))
        os.mkfifo(named)
        get(sources, store)
        store.verify(BLOB)
        (store.blobs / BLOB.sha256).unlink()
        named.unlink()
        named.mkdir()
        get(sources, store)
    store.verify(BLOB)


@pytest.mark.parametrize("path", ["/blobs/../secret", "/blobs/" + "a" * 63 + "/", "/tuf/root.json", "/blobs/"])
def test_a_folder_mirror_opens_nothing_but_blobs(tmp_path, path):
    (tmp_path / "secret").write_text("x")
    with Folder(tmp_path).stream("GET", path) as answer:
        assert answer.status == 404 and answer.read1(10) == b""


def test_a_login_page_does_not_replace_what_is_here(store):
    hub = HubSite(b"<html>", headers={"Content-Type": "text/html; charset=utf-8"})
    store.part(BLOB).write_bytes(DATA[:1000])
    hub.status = 200

    class IgnoresRanges(HttpMirror):
        def stream(self, method, path, *, headers=None, timeout=30.0):
            return super().stream(method, path, timeout=timeout)

    with served(hub), pytest.raises(FetchError, match="web page"):
        get(Sources((), IgnoresRanges(hub.url)), store)
    assert store.part(BLOB).read_bytes() == DATA[:1000]


def test_a_spent_budget_stops_after_a_piece_and_goes_on_another_day(store):
    hub = HubSite()
    with served(hub):
        sources = Sources((), HttpMirror(hub.url))
        with pytest.raises(FetchError) as caught:
            get(sources, store, allowance=100_000)
        assert caught.value.reason == "budget-spent"
        first = get.received
        assert 100_000 <= first < 100_000 + (64 << 10) and store.part(BLOB).stat().st_size == first
        with pytest.raises(FetchError):
            get(sources, store, allowance=0)
        assert len(hub.seen) == 1
        assert first + get(sources, store, allowance=len(DATA)) == len(DATA)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/",
        "cdn.example",
        "https://user:pw@cdn.example/",
        "https://cdn.example/?a=1",
        "file://host/x",
        "https://",
        "http://x:99999/",
    ],
)
def test_a_mirror_that_makes_no_sense_is_refused_when_the_configuration_is_read(tmp_path, url):
    with pytest.raises(UsageError, match="mirror"):
        check_mirror(url)
    (tmp_path / "agent.toml").write_text(f'mirrors = ["{url}"]\n')
    with pytest.raises(UsageError, match="mirror"):
        load_config(tmp_path, environ={})


def test_mirrors_are_read_from_file_and_environment(tmp_path):
    (tmp_path / "agent.toml").write_text('mirrors = ["https://cdn.example/edgeloop/", "file:///media/usb"]\n')
    assert load_config(tmp_path, environ={}).mirrors == ("https://cdn.example/edgeloop/", "file:///media/usb")
    environ = {"EDGELOOP_MIRRORS": "https://a.example file:///b"}
    assert load_config(tmp_path, environ=environ).mirrors == ("https://a.example", "file:///b")


def test_an_unknown_authority_is_not_believed(store, tmp_path):
    """The hub's own certificate is signed by the fleet's authority: a mirror with it is nobody to the system."""
    from tests.support.device import listening
    from tests.support.hub import make_hub

    with listening(make_hub(tmp_path), tls=True) as url, pytest.raises(AgentError, match="certificate"):
        get(Sources((), HttpMirror(url)), store)


def drip(pace: DownloadPace) -> int:
    """Bytes taken from a server that sends one every two seconds, on an injected clock."""
    now, taken = [0.0], 0

    def read(count: int) -> bytes:
        now[0] += 2.0
        return b"x"

    with pytest.raises(FetchError, match="B/s"):
        for piece in paced(read, pace, subject="x", now=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)):
            taken += len(piece)
    return taken


def test_a_server_that_drips_is_left_also_under_a_limit_of_our_own():
    assert drip(DownloadPace()) < 10
    assert drip(DownloadPace(max_bytes_per_s=8000)) < 10

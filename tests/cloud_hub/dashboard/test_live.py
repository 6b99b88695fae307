"""Streams of server-sent events: one look for all, bounded, as long as their session, and no cost without any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlmodel import Session

from cloud_hub.api import monitoring
from cloud_hub.app import create_app
from cloud_hub.dashboard import live
from cloud_hub.dashboard.live import ALIVE_S, GAP_S, LIFE_S, Live, LiveResponse
from cloud_hub.dashboard.rendering import templates
from cloud_hub.errors import BusyError, RateError
from cloud_hub.opening.server import make_server
from cloud_hub.store.engine import make_engine
from cloud_hub.store.moved import UNKNOWN, ChangeWatcher
from cloud_hub.store.tables import Setting
from tests.cloud_hub.events.conftest import happens
from tests.support.browsing import serving_app, started_browser
from tests.support.hub import HubFixture
from tests.support.locks import until

WAIT_S = 20.0


class Marks:
    """A database whose mark a test sets; `looks` counts how often it was looked at."""

    def __init__(self) -> None:
        self.now, self.looks, self.closed = "a", 0, 0

    def mark(self) -> str:
        self.looks += 1
        return self.now

    def close(self) -> None:
        self.closed += 1


class Turns:
    """Time that a test lets pass, a turn at a time."""

    def __init__(self) -> None:
        self.at, self._gate = 0.0, asyncio.Semaphore(0)
        self.waiting, self.passed = 0, 0

    def now(self) -> float:
        return self.at

    async def pause(self, seconds: float) -> None:
        self.waiting += 1
        await self._gate.acquire()

    async def pass_by(self, seconds: float) -> None:
        """Let so much time pass, and one look see it."""
        await self._looked()
        self.let_pass(seconds)
        await self._looked()

    def let_pass(self, seconds: float) -> None:
        """The same, without waiting for the look: there may be none."""
        self.at += seconds
        self.passed += 1
        self._gate.release()

    async def _looked(self) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.waiting == self.passed:
                await asyncio.sleep(0)


def events_of(said: list[bytes]) -> list[bytes]:
    return [one.split(b"\n")[0] for one in said if one.startswith(b"event")]


class Page:
    """A stream that is read as it comes."""

    def __init__(self, streams: Live, actor: str = "operator:o", holds: Callable[[], bool] = lambda: True) -> None:
        self.said: list[bytes] = []
        self.task = asyncio.create_task(self._read(streams, actor, streams.follow(holds)))

    async def _read(self, streams: Live, actor: str, chunks: AsyncIterator[bytes]) -> None:
        with streams.place(actor):
            async for chunk in chunks:
                self.said.append(chunk)

    async def until(self, *events: bytes) -> None:
        async with asyncio.timeout(WAIT_S):
            while events_of(self.said) != [b"event: " + one for one in events]:
                await asyncio.sleep(0)


def test_a_look_that_comes_to_grief_ends_its_streams_and_the_next_page_begins_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Marks):
        def mark(self) -> str:
            if self.looks == 1:
                self.looks += 1
                raise RuntimeError("nobody foresaw it")
            return super().mark()

    async def run() -> None:
        turns = Turns()
        streams = Live(Broken(), turns.pause, turns.now)
        page = Page(streams)
        await page.until(b"moved")
        turns.let_pass(1.0)
        async with asyncio.timeout(WAIT_S):
            await page.task
        assert streams.streams == 0
        again = Page(streams)
        await again.until(b"moved")
        again.task.cancel()

    asyncio.run(run())
    assert "the look at the database failed" in caplog.text


def test_a_page_is_told_once_of_what_has_moved_and_now_and_then_that_the_hub_is_there() -> None:
    async def run() -> None:
        marks, turns = Marks(), Turns()
        page = Page(Live(marks, turns.pause, turns.now))
        await page.until(b"moved")  # it may be older than what it shows
        await turns.pass_by(GAP_S)
        await page.until(b"moved")
        marks.now = "b"
        await turns.pass_by(1.0)
        await page.until(b"moved", b"moved")
        marks.now = "c"
        await turns.pass_by(1.0)  # too soon after the last
        await turns.pass_by(1.0)
        assert len(events_of(page.said)) == 2
        await turns.pass_by(GAP_S)
        await page.until(b"moved", b"moved", b"moved")
        await turns.pass_by(ALIVE_S)
        await page.until(b"moved", b"moved", b"moved", b"alive")
        turns.let_pass(LIFE_S)
        await asyncio.wait_for(page.task, WAIT_S)

    asyncio.run(run())


def test_many_pages_cost_one_look_and_none_costs_nothing() -> None:
    async def run() -> None:
        marks, turns = Marks(), Turns()
        streams = Live(marks, turns.pause, turns.now)
        await asyncio.sleep(0)
        assert marks.looks == 0
        pages = [Page(streams, f"operator:{number}") for number in range(50)]
        for page in pages:
            await page.until(b"moved")
        for _ in range(3):
            await turns.pass_by(1.0)
        assert (marks.looks, streams.streams) == (4, 50)
        for page in pages:
            page.task.cancel()
        await asyncio.gather(*(page.task for page in pages), return_exceptions=True)
        turns.let_pass(1.0)
        async with asyncio.timeout(WAIT_S):
            while not marks.closed:
                await asyncio.sleep(0)
        assert (marks.looks, streams.streams) == (4, 0)
        later = Page(streams)
        await later.until(b"moved")
        later.task.cancel()

    asyncio.run(run())


def test_streams_are_bounded_for_a_hub_and_for_each_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST", 3)
    monkeypatch.setattr(live, "OF_ONE", 2)

    async def run() -> None:
        streams = Live(Marks(), Turns().pause)
        with ExitStack() as places:
            for actor in ("a", "a"):
                places.enter_context(streams.place(actor))
            with pytest.raises(RateError, match="2 pages of yours"):
                places.enter_context(streams.place("a"))
            places.enter_context(streams.place("b"))
            with pytest.raises(BusyError, match="3 pages of this hub"):
                places.enter_context(streams.place("c"))
        assert streams.streams == 0
        with streams.place("a"):
            assert streams.streams == 1
        streams.end()
        with pytest.raises(BusyError):
            streams.place("a").__enter__()

    asyncio.run(run())


def test_a_stream_ends_with_its_session_before_it_says_anything_more() -> None:
    async def run() -> None:
        marks, turns, session = Marks(), Turns(), [True]
        page = Page(Live(marks, turns.pause, turns.now), holds=lambda: session[0])
        await page.until(b"moved")
        session[0], marks.now = False, "b"
        turns.let_pass(GAP_S)
        await asyncio.wait_for(page.task, WAIT_S)
        assert events_of(page.said) == [b"event: moved"]

    asyncio.run(run())


def test_a_hub_that_stops_ends_its_streams() -> None:
    async def run() -> None:
        streams = Live(Marks(), Turns().pause)
        page = Page(streams)
        await page.until(b"moved")
        streams.end()
        await asyncio.wait_for(page.task, WAIT_S)

    asyncio.run(run())


def test_a_server_that_stops_says_so_to_its_streams(hub: HubFixture) -> None:
    app = create_app(hub.hub)
    server = make_server(app, app.state.inference.shared, log_config=None)
    server.ending()
    with pytest.raises(BusyError):
        app.state.live.place("a").__enter__()


def test_the_mark_moves_with_every_commit_of_any_hub_and_with_nothing_else(hub_database: str) -> None:
    ours, theirs = make_engine(hub_database), make_engine(hub_database)
    marks = [ChangeWatcher(ours), ChangeWatcher(theirs)]
    seen = [one.mark() for one in marks]
    assert [one.mark() for one in marks] == seen and UNKNOWN not in seen
    for number, engine in enumerate((ours, theirs, ours)):
        with Session(engine) as session:
            session.add(Setting(key=f"k{number}", value="v"))
            session.commit()
        found = [one.mark() for one in marks]
        assert all(one != before for one, before in zip(found, seen, strict=True))
        seen = found
    with Session(theirs.execution_options(edgeloop_read=True)) as session:
        session.get(Setting, "k0")
    assert [one.mark() for one in marks] == seen
    for one in marks:
        one.close()
    assert marks[0].mark() != UNKNOWN
    marks[0].close()
    ours.dispose(), theirs.dispose()


def test_a_database_that_does_not_answer_is_a_mark_of_its_own() -> None:
    marks = ChangeWatcher(make_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    assert marks.mark() == UNKNOWN
    marks.close()


def ask(address: str, method: str, path: str, cookie: str = "", body: str = "") -> HTTPResponse:
    """The answer of a real server, to be read line by line."""
    connection = HTTPConnection(address.removeprefix("http://"), timeout=WAIT_S)
    headers = {"accept": "text/event-stream", "cookie": cookie, "content-type": "application/x-www-form-urlencoded"}
    connection.request(method, path, body, headers)
    return connection.getresponse()


def test_the_stream_is_for_who_is_logged_in_and_ends_when_the_token_is_revoked(hub: HubFixture) -> None:
    app = create_app(hub.hub)
    token = hub.token(role="viewer")
    with serving_app(app) as address:
        assert ask(address, "GET", "/live").status == 401
        cookie = str(ask(address, "POST", "/login", body=f"token={token}").getheader("set-cookie")).split(";")[0]
        answer = ask(address, "GET", "/live", cookie)
        assert str(answer.getheader("content-type")).startswith("text/event-stream")
        assert (answer.getheader("cache-control"), answer.getheader("x-accel-buffering")) == ("no-store", "no")
        while (line := answer.readline()) and not line.startswith(b"event"):
            pass
        assert line == b"event: moved\n"
        token_id = token.split(".")[1]
        assert hub.client.delete(f"/api/v1/tokens/{token_id}", headers=hub.auth()).status_code < 300
        assert b"event" not in answer.read()  # it has an end
        until(lambda: app.state.live.streams == 0)
        assert ask(address, "GET", "/live", cookie).status == 401


def test_a_stream_counts_as_answered_when_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, registry = [10.0], CollectorRegistry()
    monkeypatch.setattr(monitoring, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = SimpleNamespace(path="/live")
        clock[0] += 0.25
        answer = LiveResponse(Live(Marks()), "a", lambda: True)
        await send({"type": "http.response.start", "status": 200, "headers": answer.raw_headers})
        clock[0] += 3000.0

    async def send(message: Any) -> None:
        pass

    counted = monitoring.CountRequests(stream, monitoring.HttpMetrics(registry))
    asyncio.run(counted({"type": "http", "method": "GET"}, send, send))
    labels = {"method": "GET", "route": "/live"}
    assert registry.get_sample_value("edgeloop_hub_http_request_seconds_sum", labels) == 0.25


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started_browser() as found:
        yield found


@contextmanager
def page_of(browser: Any, address: str, token: str) -> Iterator[tuple[Any, list[str]]]:
    """A page that is logged in, and what was wrong on it."""
    context = browser.new_context()
    page, problems = context.new_page(), list[str]()
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address + "/login")
    page.get_by_label("Operator token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(address + "/")
    yield page, problems
    context.close()


@pytest.mark.browser
def test_a_change_is_shown_without_a_reload_and_without_asking(
    browser: Any, hub: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(templates.env.globals, "every", 3600)  # pages ask once an hour by themselves
    app = create_app(hub.hub)
    with serving_app(app) as address, page_of(browser, address, hub.admin_token) as (page, problems):
        page.goto(address + "/events")
        page.evaluate("window.kept = 1")
        until(lambda: app.state.live.streams == 1)
        happens(hub, message="fresh news")
        page.get_by_text("fresh news").first.wait_for()
        assert page.evaluate("window.kept") == 1 and problems == []
        page.goto(address + "/login")
        until(lambda: app.state.live.streams == 0)


@pytest.mark.browser
def test_a_page_whose_stream_ends_and_is_refused_asks_by_itself(browser: Any, hub: HubFixture) -> None:
    app = create_app(hub.hub)
    with serving_app(app) as address, page_of(browser, address, hub.admin_token) as (page, problems):
        page.goto(address + "/events")
        page.evaluate("window.kept = 1")
        until(lambda: app.state.live.streams == 1)
        app.state.live.end()
        until(lambda: app.state.live.streams == 0)
        happens(hub, message="later news")
        page.get_by_text("later news").first.wait_for()
        page.locator("#connection").get_by_text("live", exact=True).wait_for()
        assert page.evaluate("window.kept") == 1
        assert all("503" in one for one in problems)

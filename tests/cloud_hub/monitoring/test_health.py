"""The answers of `/healthz` and `/readyz` are true, and come in time, whatever hangs."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from cloud_hub.broker.link import Address, Link
from cloud_hub.config import HubConfig
from cloud_hub.errors import UnreachableError
from cloud_hub.ingest import service
from cloud_hub.ingest.service import Ingest, LoopStep
from cloud_hub.monitoring import health
from cloud_hub.monitoring.board import PARTS, STILL_S, StatusBoard
from cloud_hub.monitoring.health import HubHealth, Probe, judge_clock, status_of
from cloud_hub.ports import Part
from tests.support.databases import migrated_postgres
from tests.support.hub import HubFixture, make_hub

DAY = 86_400.0


def working(hub: HubFixture) -> HubFixture:
    """As if the services ran."""
    hub.hub.board.say("broker", "")
    hub.hub.board.say("ingest", "")
    return hub


def states(hub: HubFixture, path: str = "/readyz") -> tuple[int, dict[str, str]]:
    answer = hub.client.get(path)
    document = answer.json()
    assert set(document["parts"]) <= set(PARTS) and answer.headers["cache-control"] == "no-store"
    return answer.status_code, {name: part["state"] for name, part in document["parts"].items()}


def reason(hub: HubFixture, part: str) -> str:
    return str(hub.client.get("/healthz").json()["parts"][part]["reason"])


def test_all_is_well(hub: HubFixture) -> None:
    assert states(working(hub)) == (200, dict.fromkeys(PARTS, "ok"))
    assert hub.client.get("/healthz").json()["status"] == "ok"


def test_silence_is_no_health(hub: HubFixture) -> None:
    code, found = states(hub)
    assert code == 503 and found["broker"] == found["ingest"] == "starting"
    assert hub.client.get("/healthz").status_code == 200  # it lives, and a restart would not help


@pytest.mark.parametrize("part", ["broker", "ingest"])
def test_what_a_service_says_is_shown(hub: HubFixture, part: Any) -> None:
    working(hub).hub.board.say(part, "the certificate is for another name")
    code, found = states(hub)
    assert (code, found) == (503, {**dict.fromkeys(PARTS, "ok"), part: "failed"})
    assert reason(hub, part) == "the certificate is for another name"
    assert states(hub, f"/readyz?exclude={part}")[0] == 200
    assert states(hub, f"/readyz?exclude={part}&exclude=clock")[0] == 200


def test_an_unknown_part_cannot_be_left_out(hub: HubFixture) -> None:
    answer = hub.client.get("/readyz?exclude=brokre")
    assert answer.status_code == 400 and "brokre" in answer.json()["error"] and "ingest" in answer.json()["hint"]


def test_a_store_without_the_signed_metadata(hub: HubFixture) -> None:
    working(hub).hub.objects.delete("tuf/metadata/timestamp.json")
    assert states(hub)[1]["objects"] == "failed" and "missing" in reason(hub, "objects")


def test_a_database_that_is_gone(hub: HubFixture) -> None:
    database = hub.hub.config.directory / "hub.db"
    working(hub).hub.engine.dispose()
    for path in database.parent.glob("hub.db*"):
        path.unlink()
    code, found = states(hub)
    assert (code, found["database"], found["clock"]) == (503, "failed", "unknown")
    assert hub.client.get("/healthz").status_code == 200


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port where connections are taken and nothing ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_database_that_hangs_holds_no_answer_up(hub: HubFixture, deaf: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while the first one waits nor, later, when every thread and connection of the hub's waits as well."""
    monkeypatch.setattr(health, "PATIENCE_S", 0.2)
    working(hub)
    config = hub.hub.config.model_copy(update={"database": f"postgresql+psycopg://x@127.0.0.1:{deaf}/x"})
    app: Any = hub.client.app
    app.state.health = HubHealth(_replace(hub, config))
    before = threading.active_count()
    for _ in range(5):
        began = time.monotonic()
        code, found = states(hub)
        assert time.monotonic() - began < 5 and code == 503 and found["database"] == "failed"
        assert "no answer for" in reason(hub, "database") and found["objects"] == "ok"
    assert threading.active_count() <= before + 3  # one that waits, and the client's own


def _replace(hub: HubFixture, config: HubConfig) -> Any:
    import dataclasses

    return dataclasses.replace(hub.hub, config=config)


def test_an_object_store_that_hangs_holds_no_answer_up(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE_S", 0.1)
    let_go = threading.Event()
    monkeypatch.setattr(type(working(hub).hub.objects), "exists", lambda *_: let_go.wait(30))
    assert states(hub)[1]["objects"] == "failed"
    let_go.set()


# ---- probes ---------------------------------------------------------------------------------------


def test_one_check_runs_at_a_time_and_its_outcome_is_fresh() -> None:
    now, calls, outcomes = [100.0], [0], ["", "broken"]

    def check() -> str:
        calls[0] += 1
        return outcomes[0]

    probe = Probe("test", check, lambda: now[0])

    async def look() -> list[Part]:
        return list(await asyncio.gather(*(probe.look() for _ in range(10))))

    assert asyncio.run(look()) == [Part("ok")] * 10 and calls == [1]
    outcomes.pop(0)
    assert asyncio.run(probe.look()) == Part("ok")  # of a moment ago
    now[0] += 1.0
    assert asyncio.run(probe.look()) == Part("failed", "broken") and calls == [2]


def test_who_stops_waiting_ends_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE_S", 0.05)
    let_go, calls = threading.Event(), [0]

    def check() -> str:
        calls[0] += 1
        let_go.wait(30)
        return ""

    probe = Probe("test", check)
    assert [asyncio.run(probe.look()).state for _ in range(3)] == ["failed"] * 3 and calls == [1]
    let_go.set()
    monkeypatch.setattr(health, "PATIENCE_S", 10.0)
    assert asyncio.run(probe.look()) == Part("ok")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_check_that_breaks_off_is_no_health_and_blocks_no_later_one() -> None:
    now = [0.0]
    errors: list[Exception | None] = [UnreachableError("secret address"), ZeroDivisionError(), None]

    def check() -> str:
        error = errors.pop(0)
        if error is not None:
            raise error
        return ""

    probe = Probe("test", check, lambda: now[0])
    first = asyncio.run(probe.look())
    assert first.state == "failed" and "UnreachableError" in first.reason and "secret" not in first.reason
    now[0] += 2
    assert asyncio.run(probe.look()).state == "failed"
    now[0] += 2
    assert asyncio.run(probe.look()) == Part("ok")


# ---- the clock --------------------------------------------------------------------------------------


def test_a_clock_behind_what_was_signed(hub: HubFixture) -> None:
    working(hub).clock.advance(-DAY)
    code, found = states(hub)
    assert (code, found["clock"], found["database"]) == (503, "failed", "ok")
    assert "2027-01-14 08:00:00" in reason(hub, "clock") and "2027-01-15 08:00:00" in reason(hub, "clock")


@pytest.mark.parametrize(
    ("now", "signed_at", "database", "state"),
    [
        (1000.0, 900.0, None, "ok"),
        (1000.0, 1059.0, 1059.0, "ok"),
        (1000.0, 1061.0, None, "failed"),
        (1000.0, 0.0, 1061.0, "failed"),
        (1000.0, 0.0, 939.0, "failed"),
        (0.0, 1e300, None, "failed"),
    ],
)
def test_clocks(now: float, signed_at: float, database: float | None, state: str) -> None:
    found = judge_clock(now, signed_at, database)
    assert found.state == state and bool(found.reason) == (state == "failed")


def test_the_clock_of_the_databases_machine(tmp_path: Path, postgres: str) -> None:
    url = migrated_postgres(postgres, "edgeloop_health")
    true = working(make_hub(tmp_path / "true", start=time.time(), database=url))
    assert states(true) == (200, dict.fromkeys(PARTS, "ok"))
    true.clock.advance(2 * DAY)
    time_apart = asyncio.run(HubHealth(true.hub).look())["clock"]
    assert time_apart.state == "failed" and "the database's" in time_apart.reason


# ---- broker and ingest -------------------------------------------------------------------------------


def test_a_loop_that_stands_still_has_failed() -> None:
    now = [0.0]
    board = StatusBoard(lambda: now[0])
    assert board.read()["ingest"].state == "starting"
    board.say("ingest", "")
    now[0] += STILL_S
    assert board.read()["ingest"].state == "ok"
    now[0] += 1
    assert board.read()["ingest"] == Part("failed", f"it has stood still for {STILL_S + 1:.0f} s")
    board.say("ingest", "a step fails")
    assert board.read()["ingest"] == Part("failed", "a step fails")


def test_a_broker_that_does_not_answer_is_said(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **_more: object) -> Any:
        raise UnreachableError("the broker at hub.example:8883 does not answer: refused", subject="broker")

    monkeypatch.setattr(service, "open_link", gone)
    with pytest.raises(UnreachableError):
        asyncio.run(Ingest(hub.hub).run())
    found = hub.hub.board.read()
    assert found["broker"] == Part("failed", "the broker at hub.example:8883 does not answer: refused")
    assert found["ingest"] == Part("failed", "it does not run")


def test_a_step_that_fails_is_said_until_it_works() -> None:
    outcomes: list[Exception | None] = [OSError(), None]

    def work() -> None:
        error = outcomes.pop(0)
        if error is not None:
            raise error

    step = LoopStep("sending commands", work)
    step.run(0.0)
    assert step.problem == "sending commands fails: OSError"
    step.run(100.0)
    assert step.problem == ""


def test_the_connection_says_how_it_stands() -> None:
    said: list[str] = []
    link = Link(Address(host="127.0.0.1", port=1, client_id="x"), "p", lambda *_: None, said.append)

    class Code:
        def __init__(self, text: str) -> None:
            self.text, self.is_failure = text, bool(text)

        def __str__(self) -> str:
            return self.text

    client = link._client
    for callback, code in (
        (client.on_subscribe, [Code("")]),
        (client.on_disconnect, Code("Keep alive timeout")),
        (client.on_connect, Code("Not authorized")),
        (client.on_connect, Code("")),
        (client.on_subscribe, [Code("")]),
    ):
        assert callback is not None
        callback(client, None, 0, code, None)  # type: ignore[call-arg, arg-type]
    assert said == ["", "the connection is gone: Keep alive timeout", "the broker refuses the hub: Not authorized", ""]


def test_a_connection_hears_once_every_subscription_is_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(Address(host="127.0.0.1", port=1, client_id="x"), "p", lambda *_: None, digits="01")
    client, fine, bad = link._client, SimpleNamespace(is_failure=False), SimpleNamespace(is_failure=True)
    asked: list[int] = []

    def subscribe(wishes: Any) -> tuple[int, int]:
        asked.append(len(asked) + 1)
        return 0, asked[-1]

    def call(name: str, *arguments: Any) -> bool:
        getattr(client, name)(client, None, *arguments, None)
        return link.hears

    monkeypatch.setattr(client, "subscribe", subscribe)
    assert not link.hears and not call("on_connect", 0, fine)
    assert call("on_subscribe", 1, [fine, fine])
    link.follow("012")
    assert not link.hears and call("on_subscribe", 2, [fine])
    assert not call("on_disconnect", 0, bad), "until the broker is there again"
    assert not call("on_connect", 0, bad) and not call("on_connect", 0, fine)
    link.check()
    assert not call("on_subscribe", 3, [fine, bad, fine])
    with pytest.raises(UnreachableError, match="no subscription to"):
        link.check()


def test_one_word_for_all() -> None:
    def word(*found: Any) -> str:
        return status_of({str(number): Part(state) for number, state in enumerate(found)})

    assert [word("ok", "ok"), word("ok", "starting"), word("starting", "failed"), word("unknown")] == [
        "ok",
        "starting",
        "failing",
        "failing",
    ]
    assert msgspec.json.encode(Part("ok")) == b'{"state":"ok","reason":""}'

"""The loop between broker and database: what fails in it fails by itself, and only the broker's end closes the link."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import SimpleNamespace

import msgspec
import pytest
from sqlalchemy.exc import OperationalError
from sqlmodel import select

from cloud_hub.errors import UnreachableError
from cloud_hub.ingest import service
from cloud_hub.ingest.inbox import SHARE
from cloud_hub.ingest.service import Ingest, LoopStep
from cloud_hub.ingest.shards import ALL, LEASE_S, Shards
from cloud_hub.ingest.slowing import SHOWN_S, TOO_MANY, note
from cloud_hub.services import supervisor
from cloud_hub.store import hearing
from cloud_hub.store.tables import AuditEntry, DeviceEvent, Lease, SetAside, Setting
from fleet.protocol import topics
from tests.cloud_hub.ingest.test_bad_messages import fleet as fleet  # a hub with two devices, on each database
from tests.support import bad_messages as bad
from tests.support.told import told

REPORT = topics.uplink("cam-1", "report")


class Broker:
    """A link that is opened, and a broker that ends when the test says so."""

    def __init__(self) -> None:
        self.opened, self.closed, self.alive, self.hears, self.calls = 0, 0, True, True, []
        self.receipt, self.over = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def open(self, _hub, arrived, digits, *, traced=False):
        self.opened += 1
        self.arrived, self.digits = arrived, [digits]
        try:
            self.link = SimpleNamespace(
                publish=self._publish,
                check=self._check,
                revoke=lambda: self.calls.append("revoke"),
                follow=self.digits.append,
                hears=self.hears,
            )
            yield self.link
        finally:
            self.closed += 1
            self.over.set()

    def _publish(self, topic, _payload, _carried=None):
        if topic == topics.command("cam-1"):
            self.receipt.set()

    def _check(self):
        if not self.alive:
            raise UnreachableError("mosquitto ended: of old age", subject="broker")


@pytest.fixture
def broker(monkeypatch):
    monkeypatch.setattr(supervisor, "RESTART_S", (0.0,))
    made = Broker()
    monkeypatch.setattr(service, "open_link", made.open)
    return made


@contextlib.contextmanager
def running(ingest):
    """The ingest's loop in a thread; yields its failure, once it has ended."""
    ended: list[Exception] = []

    def work():
        try:
            ingest._work()
        except UnreachableError as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield ended
    finally:
        ingest._stop.set()
        thread.join(20)
        assert not thread.is_alive()


def failing(ingest, monkeypatch, name, times):
    """Let a method of the ingestor fail a few times; says when it works again."""
    real, left = getattr(ingest._ingestor, name), [times]

    def call(batch):
        if left[0]:
            left[0] -= 1
            raise OperationalError("INSERT", {}, Exception("server closed the connection"))
        return real(batch)

    monkeypatch.setattr(ingest._ingestor, name, call)
    return left


def rows(fleet, kind):
    with fleet.hub.reading() as session:
        return list(session.exec(select(kind)))


def noted(fleet):
    """The times at which each shard was noted as heard."""
    notes = [row for row in rows(fleet, Setting) if row.key.startswith(hearing.KEY)]
    return {row.key[-1]: msgspec.json.decode(row.value)["noted_at"] for row in notes}


def test_a_database_that_is_away_for_a_while_costs_neither_the_record_nor_the_broker(fleet, broker, monkeypatch):
    ingest = Ingest(fleet.hub)
    left = failing(ingest, monkeypatch, "take", 3)
    with running(ingest):
        ingest.arrived(REPORT, bad.envelope("cam-1", 1))
        assert broker.receipt.wait(60)
        assert left == [0] and (broker.opened, broker.closed) == (1, 0)
    assert len(rows(fleet, DeviceEvent)) == 1 and rows(fleet, SetAside) == []
    assert set(noted(fleet)) == set(topics.DIGITS), "it was noted that devices are heard"


def test_a_batch_that_fails_again_and_again_is_written_message_by_message(fleet, broker, monkeypatch):
    ingest = Ingest(fleet.hub)
    real = ingest._ingestor.take
    monkeypatch.setattr(ingest._ingestor, "take", lambda batch: real(batch) if len(batch) == 1 else 1 // 0)
    for device, seq in (("cam-2", 1), ("cam-2", 2), ("cam-1", 1)):
        ingest.arrived(topics.uplink(device, "report"), bad.envelope(device, seq))
    with running(ingest):
        assert broker.receipt.wait(60)
    assert len(rows(fleet, DeviceEvent)) == 3


@pytest.mark.parametrize("name", ["_send_commands", "_notify", "_sweep"])
def test_one_piece_that_fails_holds_up_no_other(fleet, broker, monkeypatch, name):
    ingest = Ingest(fleet.hub)
    monkeypatch.setattr(ingest, name, lambda *_: 1 // 0)
    with running(ingest):
        ingest.arrived(REPORT, bad.envelope("cam-1", 1))
        assert broker.receipt.wait(60)
        assert (broker.opened, broker.closed) == (1, 0)


def test_what_is_heard_follows_the_shards_and_an_end_gives_them_back(fleet, broker, monkeypatch):
    monkeypatch.setattr(service, "LOOK_S", 0.0)
    ingest = Ingest(fleet.hub)
    with running(ingest):
        ingest.arrived(REPORT, bad.envelope("cam-1", 1))
        assert broker.receipt.wait(60)
    assert set(broker.digits[1:]) == {ALL}
    assert [row for row in rows(fleet, Lease) if row.name.startswith("ingest-")] == []


def test_a_hub_that_lost_its_broker_says_so_and_its_part_goes_to_one_that_hears(fleet, broker, monkeypatch):
    ingest, other = Ingest(fleet.hub, now=fleet.clock), Shards(fleet.hub)
    ingest._shards._starts_broker = other._starts_broker = False  # one broker for both, which neither starts
    found = []

    def lost():
        broker.link.hears = False
        found.append((noted(fleet), rows(fleet, Lease)))
        fleet.clock.advance(LEASE_S + 1)

    def taken_over():
        assert (noted(fleet), rows(fleet, Lease)) == found[0], "nothing is noted, and no lease renewed"
        assert other.look() == ALL
        fleet.clock.advance(hearing.DEAF_S)

    def back():
        with fleet.hub.reading() as session:
            assert hearing.deaf_until(session, fleet.clock()) == fleet.clock(), "an outage, while it lasts"
        broker.link.hears = True
        other.look()
        fleet.clock.advance(hearing.NOTE_S)

    turns = [lambda: None, lost, taken_over, back]
    monkeypatch.setattr(ingest, "_gather", lambda: turns.pop(0)() or (turns or ingest._stop.set()))
    ingest._work()
    assert found[0][0] == dict.fromkeys(topics.DIGITS, found[0][0]["0"]) and turns == []
    heard = topics.DIGITS if fleet.hub.engine.dialect.name == "sqlite" else ""  # the other has everything by now
    assert broker.digits[-1] == frozenset(heard)
    assert {digit for digit, moment in noted(fleet).items() if moment == fleet.clock()} == set(heard)


def test_a_hub_without_a_broker_takes_no_part_away_from_those_that_hear(fleet, broker, monkeypatch):
    def away(*_, **_more):
        assert rows(fleet, Lease) == [], "while it is asked for, nothing may be this hub's"
        raise UnreachableError("the broker does not answer", subject="broker")

    monkeypatch.setattr(service, "open_link", away)
    with running(Ingest(fleet.hub)) as ended:
        pass
    assert [str(error) for error in ended] == ["the broker does not answer"]


def test_the_end_of_the_broker_ends_the_loop_so_that_both_start_anew(fleet, broker):
    ingest = Ingest(fleet.hub)
    with running(ingest) as ended:
        broker.alive = False
        assert broker.over.wait(60)
    assert [str(error) for error in ended] == ["mosquitto ended: of old age"] and broker.closed == 1


def test_a_device_that_floods_is_slowed_and_named_and_others_are_taken_at_once(fleet):
    ingest = Ingest(fleet.hub)
    for number in range(3 * SHARE):
        ingest.arrived(REPORT, b"x%d" % number)
    ingest.arrived(topics.uplink("cam-2", "report"), b"y")
    ingest._gather()
    assert [message.payload for message in ingest._batch][:2] == [b"x0", b"y"] and len(ingest._batch) == SHARE + 1
    ingest._name_floods()
    shown = {
        name: fleet.client.get(f"/api/v1/devices/{name}", headers=fleet.auth()).json() for name in ("cam-1", "cam-2")
    }
    assert {name: device["problem"] for name, device in shown.items()} == {"cam-1": TOO_MANY, "cam-2": ""}
    assert "revoke" in shown["cam-1"]["hint"]
    (entry,) = [row for row in rows(fleet, AuditEntry) if row.action == "device.slowed"]
    assert (entry.subject, entry.detail) == ("cam-1", {"dropped": 2 * SHARE})
    for number in range(3 * SHARE):
        ingest.arrived(REPORT, b"x%d" % number)
    ingest._name_floods()
    assert len([row for row in rows(fleet, AuditEntry) if row.action == "device.slowed"]) == 1, "once an hour"
    assert told(fleet.hub) == [("device.flooding", "cam-1")]
    fleet.clock.advance(SHOWN_S + 1)
    assert fleet.client.get("/api/v1/devices/cam-1", headers=fleet.auth()).json()["problem"] == ""


def test_a_flood_on_topics_that_are_nobodys_is_said_and_costs_no_other_name(fleet, caplog):
    note(fleet.hub, [("edgeloop/v1/up/0/nobody-of-this-shard-é", 5), (REPORT.rpartition("/")[0], 7), ("x/y/z/gone", 1)])
    assert [row.subject for row in rows(fleet, AuditEntry) if row.action == "device.slowed"] == ["cam-1"]
    assert "nobody's" in caplog.text


def test_a_piece_of_work_waits_longer_after_each_failure_and_starts_afresh_when_it_worked():
    broken, runs = [True], []

    def work():
        runs.append(now)
        if broken[0]:
            raise ValueError("no")

    step = LoopStep("work", work, every_s=7.0)
    for tick in range(100):
        now = tick / 10
        step.run(now)
    assert runs == [0.0, 0.5, 1.5, 3.5, 8.5] and step.failures == 5
    broken[0] = False
    now = 18.5
    step.run(now)
    assert step.failures == 0
    now = 25.0
    step.run(now)  # not yet
    now = 25.5
    broken[0] = True
    step.run(now)
    now = 26.0
    step.run(now)
    assert runs[5:] == [18.5, 25.5, 26.0]


def test_a_service_that_ran_for_a_while_is_started_again_soon(monkeypatch):
    """Its pauses grow only while it does not get going."""
    clock, pauses, runs = [0.0], [], iter([0.0, 0.0, 0.0, 3600.0, 0.0])

    class Flaky:
        name = "flaky"

        async def run(self):
            clock[0] += next(runs, 0.0)
            if len(pauses) == 5:
                return
            raise ValueError("again")

    async def sleep(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(supervisor.asyncio, "sleep", sleep)
    asyncio.run(supervisor.run_services([Flaky()], lambda: clock[0]))
    assert pauses == [0.5, 1.0, 2.0, 0.5, 1.0]

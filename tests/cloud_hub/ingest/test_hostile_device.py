"""A device with valid credentials sends all that is bad through a real Mosquitto, while another one reports."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlmodel import select

from cloud_hub.ingest.service import Ingest
from cloud_hub.store.tables import Device, DeviceEvent, SetAside
from fleet.protocol.messages import Command, Receipt, Signed
from tests.cloud_hub.broker.test_brokers import WAIT_S, Client, Site, child_of
from tests.support import bad_messages as bad
from tests.support.require import require

ROUNDS = 8


@pytest.fixture
def site(tmp_path: Path, hub_database: str) -> Iterator[Site]:
    require("mosquitto", "mosquitto")
    site = Site(tmp_path, "mosquitto", database=hub_database)
    site.fixture.model()
    for name in ("cam-1", "cam-2"):
        site.enrol(name)
    ingest = Ingest(site.hub)
    thread = threading.Thread(target=ingest._work)
    thread.start()
    yield site
    assert thread.is_alive(), "the ingest ended"
    site.clear()
    ingest._stop.set()
    thread.join(WAIT_S)
    site.hub.engine.dispose()


def receipts(client: Client) -> list[int]:
    """Up to which number the client was told that its records are in the database."""
    found = []
    for _, payload in list(client.ear.heard):
        command = msgspec.json.decode(msgspec.json.decode(payload, type=Signed).payload, type=Command)
        found.append(msgspec.convert(command.args, Receipt).committed)
    return found


def receipted(client: Client, seq: int) -> None:
    """Wait until the client was told that its records up to `seq` are dealt with."""
    with client.ear._changed:
        assert client.ear._changed.wait_for(lambda: seq in receipts(client), WAIT_S), (seq, receipts(client))


def report(client: Client, seq: int) -> float:
    """Seconds from sending a record to its receipt."""
    began = time.monotonic()
    client.up("report", bad.envelope(client.name, seq))
    receipted(client, seq)
    return time.monotonic() - began


def begin(client: Client) -> None:
    """The first record, sent again until its receipt is there, as an agent does: a hub that begins may not hear yet."""
    deadline = time.monotonic() + WAIT_S
    while not receipts(client):
        assert time.monotonic() < deadline, client.events
        client.up("report", bad.envelope(client.name, 1))
        with client.ear._changed:
            client.ear._changed.wait_for(lambda: receipts(client), 0.5)


def attack(client: Client, first: int) -> int:
    """One message of each kind; returns how many of them have a number, which begins at `first`."""
    numbered = list(bad.numbered(client.name))
    for offset, (_, make) in enumerate(numbered):
        client.up("report", make(first + offset))
    for _, payload in bad.unnumbered(client.name):
        client.up("telemetry", payload)
    for _, payload in bad.statuses():
        client.up("status", payload)
    return len(numbered)


@pytest.mark.alone
def test_it_delays_nobody_else(site: Site) -> None:
    good, enemy = site.online("cam-2"), site.online("cam-1")
    begin(good)
    begin(enemy)
    alone = statistics.median(report(good, seq) for seq in range(2, 2 + ROUNDS))
    broker, sent, beside = child_of(site), 1, []
    for seq in range(2 + ROUNDS, 2 + 2 * ROUNDS):
        sent += attack(enemy, sent + 1)
        beside.append(report(good, seq))
        receipted(enemy, sent)  # its bad records are numbered off
    report(enemy, sent + 1)  # its own good records go on, too
    assert child_of(site) == broker, "Mosquitto was restarted"
    assert good.events.count("connected") == enemy.events.count("connected") == 1
    assert statistics.median(beside) < 10 * alone, (alone, beside)
    assert count(site, DeviceEvent, "cam-2") == 1 + 2 * ROUNDS and count(site, DeviceEvent, "cam-1") == 2
    unnumbered = len(list(bad.unnumbered("cam-1")))
    kinds = sent - 1 + ROUNDS * (unnumbered + len(list(bad.statuses())))
    repeats = (ROUNDS - 1) * unnumbered  # left out while the round before still waits
    with site.hub.reading() as session:
        enemy_row = session.get(Device, "cam-1")
        assert enemy_row is not None and kinds - repeats <= enemy_row.set_aside <= kinds
    assert 0 < count(site, SetAside, "cam-1") < kinds


def count(site: Site, table: Any, device: str) -> int:
    with site.hub.reading() as session:
        return len(session.exec(select(table.id).where(table.device_id == device)).all())

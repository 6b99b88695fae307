"""A device's records and the hub's rule of acceptance, together: nothing unreceived is deleted or lost uncounted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloud_hub.ingest.batch import step
from edge_agent.mqtt.spool_sender import SpoolSender
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.spool import Spool
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import ModelReport, Receipt, decode_body, decode_envelope
from tests.support.size import examples


class Hub:
    """The hub's cursors, and the bodies that it took."""

    def __init__(self) -> None:
        self.committed: dict[str, int] = {}
        self.lost = 0
        self.stored: list[str] = []
        self.heard = ""

    def take(self, payload: bytes) -> None:
        envelope = decode_envelope(payload)
        taken = step(self.committed.get(envelope.spool, 0), envelope.seq, envelope.base)
        self.heard, self.committed[envelope.spool] = envelope.spool, taken.committed
        self.lost += taken.lost
        if taken.accept:
            body = decode_body(envelope)
            assert isinstance(body, ModelReport)
            self.stored.append(body.detail)


class Device:
    """The real sender and spool, with the hub in place of a broker."""

    def __init__(self, path: Path, hub: Hub, max_bytes: int = 32 << 20) -> None:
        self.hub, self.database = hub, Database(path)
        self.spool = Spool(self.database, max_bytes=max_bytes)
        self.sender = SpoolSender(self.spool)

    def connect(self) -> None:
        self.sender.connect(0.0)

    def report(self, text: str) -> None:
        self.spool.append("model", encode_msgpack(ModelReport(model="m", state="idle", detail=text)), 1.0)

    async def send(self) -> None:
        await self.sender.part()
        for leaf, payload, _ in self.sender.flight("cam-1", 0.0):
            assert leaf == "report"
            self.hub.take(payload)

    def exchange(self) -> None:
        """One flight to the hub, and its receipt."""

        async def turn() -> None:
            await self.send()
            receipt = Receipt(spool=self.hub.heard, committed=self.hub.committed.get(self.hub.heard, 0))
            upto = await self.sender.covered(receipt)
            self.spool.commit(upto)
            self.sender.receipted(upto, 0.0)

        asyncio.run(turn())

    def drain(self) -> None:
        for _ in range(2 * len(self.spool) + 5):
            self.exchange()
        assert len(self.spool) == 0


@pytest.mark.parametrize("before", [0, 30])
@pytest.mark.parametrize("ahead", [0, 1, 5, 40])
@pytest.mark.parametrize("written", [1, 10])
def test_a_machine_that_was_set_back_while_it_ran_loses_nothing(tmp_path, before, ahead, written):
    hub = Hub()
    device = Device(tmp_path / "spool.db", hub)
    device.connect()
    for number in range(before):
        device.report(f"old {number}")
    device.drain()
    name = device.spool.id  # the hub heard more of it, and then the machine was set back to here
    hub.committed[name] = hub.committed.get(name, 0) + ahead
    new = [f"new {number}" for number in range(written)]
    for text in new:
        device.report(text)
    device.connect()
    device.drain()
    assert hub.stored[before:] == new


def test_what_went_to_a_dead_connection_goes_on_under_its_numbers_and_is_taken_once(tmp_path):
    hub = Hub()
    device = Device(tmp_path / "spool.db", hub)
    device.connect()
    texts = [str(number) for number in range(50)]
    for text in texts:
        device.report(text)
    for _ in range(4):  # the hub hears a flight, and its receipt is lost
        asyncio.run(device.send())
        device.connect()
    device.drain()
    assert hub.stored == texts


STEPS = st.lists(st.sampled_from(["report", "reports", "exchange", "connect", "restart"]), max_size=25)


@settings(max_examples=examples(25), deadline=None)
@given(STEPS)
@example(["reports", "restart", "reports", "connect", "exchange", "restart", "reports"])
def test_every_record_is_taken_or_counted_as_lost_once(tmp_path_factory, steps):
    path, hub, written = tmp_path_factory.mktemp("spool") / "spool.db", Hub(), 0
    device = Device(path, hub, max_bytes=600)
    for one in [*steps, "connect"]:
        if one.startswith("report"):
            for _ in range(1 if one == "report" else 13):
                device.report(f"{written:04}")
                written += 1
        elif one == "exchange":
            device.exchange()
        elif one == "connect":
            device.connect()
        else:
            device.database.close()
            device = Device(path, hub, max_bytes=600)
    device.drain()
    given_up = device.spool.lost
    device.database.close()
    assert hub.stored == sorted(set(hub.stored))
    assert (len(hub.stored) + hub.lost, hub.lost <= given_up) == (_last_heard(hub, written), True)


def _last_heard(hub: Hub, written: int) -> int:
    """All that was written: the newest record is never given up, so the hub hears the end of everything."""
    assert not written or hub.stored[-1] == f"{written - 1:04}"
    return written


def test_what_a_full_spool_gave_up_across_a_restart_is_counted(tmp_path):
    hub = Hub()
    for start in range(2):
        device = Device(tmp_path / "spool.db", hub, max_bytes=600)
        for number in range(8 + 20 * start):
            device.report(f"{start}-{number}")
        lost = device.spool.lost
        device.database.close()
    again = Device(tmp_path / "spool.db", hub, max_bytes=600)
    again.connect()
    again.drain()
    assert hub.lost == lost > 8 and len(hub.stored) == 36 - lost

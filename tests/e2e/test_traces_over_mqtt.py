"""One trace from the hub that sends a command, over Mosquitto, to the device that carries it out, and back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlmodel import select

from cloud_hub.ingest.commands import send_command
from cloud_hub.ingest.service import Ingest
from cloud_hub.store.tables import DeviceEvent
from edge_agent.identity.keys import signed_by
from edge_agent.mqtt.command_handler import Actions
from edge_agent.mqtt.trails import Trails
from edge_agent.serving.slots import Slots
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.report_log import ReportLog
from edge_agent.telemetry.spool import Spool
from fleet.protocol.messages import CommandKeys
from fleet.tracing import OFF, Tracer
from tests.support.hub import HubFixture, make_hub
from tests.support.hub_process import free_port
from tests.support.hub_site import enrol, link_of, until
from tests.support.require import require
from tests.support.traces import Kept
from tests.support.uplink import make_uplink

DEVICE = "cam-1"


@contextlib.asynccontextmanager
async def device(folder: Path, hub: HubFixture, tracer: Tracer):
    """A device with what an agent has between broker and spool; it answers commands."""
    folder.mkdir()
    database = Database(folder / "spool.db")
    spool, trails = Spool(database), Trails(tracer.carried)
    uplinks = []
    reports = ReportLog(spool, time.time, lambda: uplinks[0].wake(), trails.note)
    actions = Actions(reports, dict, Slots(None), lambda: {"well": True}, tracer=tracer)  # type: ignore[arg-type]
    key = hub.hub.command_key
    keys = CommandKeys(keys={key.key_id: key.public.hex()})  # type: ignore[union-attr]
    uplinks.append(
        make_uplink(
            replace(link_of(hub.hub, folder, DEVICE, enrol(hub.hub, DEVICE)), traced=tracer.on),
            database,
            spool,
            key=lambda: keys,
            verify=signed_by,
            handle=actions.handle,
            trails=trails,
            tracer=tracer,
        )
    )
    tasks = [asyncio.create_task(one.run()) for one in (uplinks[0], actions)]
    try:
        yield uplinks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        database.close()


async def answered(folder: Path, hub: HubFixture, sender: Tracer, receiver: Tracer) -> None:
    """The device has carried out a command of the hub, which has its answer."""
    ingest = asyncio.create_task(Ingest(hub.hub, tracer=sender).run())
    async with device(folder, hub, receiver) as uplink:
        await until(lambda: uplink.online, "the device is connected")
        await asyncio.to_thread(send_command, hub.hub, DEVICE, "diagnose", {})

        def is_there() -> bool:
            with hub.hub.reading() as session:
                return "result" in session.exec(select(DeviceEvent.kind)).all()

        await until(is_there, "the answer is written")
        await until(lambda: uplink._sender.timeout_s is None, "the answer has its receipt")
    ingest.cancel()
    await asyncio.gather(ingest, return_exceptions=True)


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    require("mosquitto", "mosquitto")
    return make_hub(tmp_path / "hub", start=time.time(), broker={"kind": "mosquitto", "port": free_port()})


def test_a_command_and_its_answer_are_one_trace(tmp_path: Path, hub: HubFixture) -> None:
    kept = Kept()
    asyncio.run(answered(tmp_path / "cam", hub, kept.tracer("hub"), kept.tracer("agent", ratio=0.0)))
    sent, done = kept.one("hub", "send command"), kept.one("agent", "command diagnose")
    taken = kept.one("hub", "take report")
    assert (sent.parent, done.parent.span_id, taken.parent.span_id) == (
        None,
        sent.context.span_id,
        done.context.span_id,
    )
    assert {one.context.trace_id for one in (done, taken)} == {sent.context.trace_id}
    assert sent.attributes["edgeloop.command"] == done.attributes["edgeloop.command"]
    assert [one.kind.name for one in (sent, done, taken)] == ["PRODUCER", "CONSUMER", "CONSUMER"]


@pytest.mark.parametrize("who", ["hub", "agent"])
def test_where_only_one_side_wants_traces_the_other_is_none_the_wiser(
    tmp_path: Path, hub: HubFixture, who: str
) -> None:
    kept = Kept()
    tracers = [kept.tracer(one) if one == who else OFF for one in ("hub", "agent")]
    asyncio.run(answered(tmp_path / "cam", hub, *tracers))
    assert {name for name, _ in kept.spans} == {who}

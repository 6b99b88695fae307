"""Two hub processes on one PostgreSQL and one broker: one is killed, and nothing is lost or done twice.

In the full size 200 devices report for half an hour, while one of the two, drawn at random, is killed again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from cryptography.hazmat.primitives import serialization
from sqlmodel import col, select

from cloud_hub.broker.mosquitto import Mosquitto
from cloud_hub.broker.revocation import Revoked
from cloud_hub.config import HubConfig
from cloud_hub.context import Hub
from cloud_hub.identity.enroll import enroll
from cloud_hub.identity.tokens import Grant, create_token
from cloud_hub.ingest.commands import send_command
from cloud_hub.jobs import queue
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.store.tables import DeviceEvent, Job, Lease, SpoolCursor
from cloud_hub.trust.keys import CommandKey
from edge_agent.identity.keys import signed_by
from edge_agent.mqtt.link import Link
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.spool import Spool
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import Command, CommandKeys, EnrollRequest, ModelReport
from tests.support.device_key import DeviceKey
from tests.support.hub_process import HubProcess, cloud_hub, free_port, serving
from tests.support.postgres import cluster, create_database
from tests.support.require import require
from tests.support.size import sized
from tests.support.uplink import make_uplink

pytestmark = pytest.mark.e2e
NAMES = [f"cam-{number}" for number in range(sized(8, 200))]
KILLS_FOR_S = sized(0.0, 1800.0)  # one at least
REPORT_S = sized(0.1, 2.0)
WAIT_S = sized(120.0, 600.0)
SEED = 17


class Device:
    """A device's real spool and uplink; `commands` are those that it was given."""

    def __init__(self, folder: Path, hub: Hub, name: str) -> None:
        folder.mkdir()
        self.name, self.commands = name, list[str]()
        self.database = Database(folder / "spool.db")
        self.spool = Spool(self.database)
        link = self._link(hub, folder)
        key = hub.command_key
        assert isinstance(key, CommandKey)
        keys = CommandKeys(keys={key.key_id: key.public.hex()})
        self.uplink = make_uplink(
            link, self.database, self.spool, key=lambda: keys, verify=signed_by, handle=self._obey, first_timeout_s=1.0
        )

    def _link(self, hub: Hub, folder: Path) -> Link:
        with hub.session() as session:
            token = create_token(session, Grant(kind="claim", channel="stable"), now=hub.clock()).text
        _, identity, secret, *_ = token.split(".")
        key = DeviceKey()
        answer = enroll(hub, EnrollRequest(token=identity, secret=secret, csr=key.csr(), name=self.name))
        private = key.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "device.pem").write_bytes(private + answer.certificate.encode())
        context = ssl.create_default_context(cafile=str(hub.config.ca_file))
        context.load_cert_chain(folder / "device.pem")
        return Link(device_id=self.name, channel="stable", endpoint=answer.mqtt, context=context)

    def _obey(self, command: Command) -> None:
        self.commands.append(command.id)

    def report(self, number: int) -> None:
        report = ModelReport(model="tiny", state="idle", detail=str(number))
        self.spool.append("model", encode_msgpack(report), time.time())
        self.uplink.wake()


class Site:
    """The database, the broker and the directories of two hubs, and a view of what the hubs share."""

    def __init__(self, base: Path, url: str) -> None:
        self.base, self.port = base, free_port()
        shared = ("--database", url, "--objects", str(base / "objects"))
        done = cloud_hub("init", base / "one", "--offline-keys", base / "off", *shared)
        assert done.returncode == 0, done.stderr
        for name in ("two", "broker"):
            shutil.copytree(base / "one", base / name)
        config = HubConfig.load(base / "broker", broker={"kind": "mosquitto", "port": self.port})
        self.hub = open_hub(config)
        self.broker = Mosquitto(config, self.hub.authority, Revoked(), time.time)

    def serve(self, name: str) -> contextlib.AbstractContextManager[HubProcess]:
        return serving(
            self.base / name,
            "--broker-port",
            str(self.port),
            EDGELOOP_HUB_BROKER__KIND="external",
            EDGELOOP_HUB_BROKER__HOST="127.0.0.1",
            EDGELOOP_HUB_JOURNAL=str(self.base / "journal"),
        )

    def shares(self) -> list[int]:
        """How many shards each hub has, the most first."""
        with self.hub.reading() as session:
            rows = session.exec(select(Lease.owner).where(col(Lease.name).startswith("ingest-shard:"))).all()
        return sorted(Counter(rows).values(), reverse=True)

    def jobs(self) -> list[Job]:
        with self.hub.reading() as session:
            return list(session.exec(select(Job)))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    require("mosquitto", "mosquitto")
    with cluster() as connection:
        site = Site(tmp_path, create_database(connection, "edgeloop_two_hubs"))
        with site.broker:
            yield site
        site.hub.engine.dispose()


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def reporting(devices: list[Device]) -> AsyncIterator[None]:
    """The devices are connected, and each reports without a pause; at the end nothing of it waits any more."""
    tasks = [asyncio.create_task(device.uplink.run()) for device in devices]
    stop = asyncio.Event()

    async def talk() -> None:
        number = 0
        while not stop.is_set():
            for device in devices:
                await asyncio.to_thread(device.report, number)
            number += 1
            await asyncio.sleep(REPORT_S)

    talking = asyncio.create_task(talk())
    try:
        yield
        stop.set()
        await talking
        await until(lambda: not any(len(device.spool) for device in devices), "everything has its receipt")
    finally:
        for task in (*tasks, talking):
            task.cancel()
        await asyncio.gather(*tasks, talking, return_exceptions=True)


def check_reports(site: Site, devices: list[Device]) -> int:
    """Every report is there once, in order; how many."""
    count = 0
    with site.hub.reading() as session:
        for device in devices:
            query = select(DeviceEvent.seq).where(DeviceEvent.device_id == device.name).order_by(col(DeviceEvent.id))
            numbers = list(session.exec(query.where(DeviceEvent.spool == device.spool.id)))
            assert numbers == list(range(1, device.spool.top + 1))
            count += len(numbers)
        assert set(session.exec(select(SpoolCursor.lost))) == {0}
    return count


def test_a_hub_that_is_killed_is_replaced_and_nothing_is_lost_or_done_twice(site: Site) -> None:
    kills, rng = list[int](), Random(SEED)

    async def scenario() -> None:
        with contextlib.ExitStack() as stack:
            hubs = [stack.enter_context(site.serve(name)) for name in ("one", "two")]
            await until(lambda: site.shares() == [8, 8], "the two share the ingest")
            devices = [Device(site.base / name, site.hub, name) for name in NAMES]
            given: list[set[str]] = [set() for _ in devices]

            async def ask_each() -> None:
                for device, ids in zip(devices, given, strict=True):
                    ids.add(send_command(site.hub, device.name, "diagnose", {}))
                for device, ids in zip(devices, given, strict=True):
                    await until(lambda device=device, ids=ids: ids <= set(device.commands), "commands arrive")  # type: ignore[misc]

            async with reporting(devices):
                await until(lambda: all(device.uplink.online for device in devices), "all are connected")
                await ask_each()
                over = time.monotonic() + KILLS_FOR_S
                while not kills or time.monotonic() < over:
                    if kills:
                        again = await asyncio.to_thread(stack.enter_context, site.serve(("one", "two")[kills[-1]]))
                        hubs[kills[-1]] = again
                        await until(lambda: site.shares() == [8, 8], "the one that was killed is replaced")
                    for _ in range(3):
                        queue.submit(site.hub, "nobody-knows-it", actor="test")
                    kills.append(rng.randrange(2))
                    hubs[kills[-1]].stop(signal.SIGKILL)
                    before = [device.spool.base for device in devices]
                    await until(lambda: site.shares() == [16], "the other has taken over")
                    await until(
                        lambda before=before: all(d.spool.base > b for d, b in zip(devices, before, strict=True)),  # type: ignore[misc]
                        "every device is heard",
                    )
                await ask_each()
                await until(lambda: all(job.state == "failed" for job in site.jobs()), "the jobs are done")
        count = check_reports(site, devices)
        print(f"{len(kills)} kills of {len(devices)} devices' hubs, {count} reports")
        assert count > 100
        for device, ids in zip(devices, given, strict=True):
            assert sorted(device.commands) == sorted(ids), "each command came once"
        assert [job.attempt for job in site.jobs()] == [1] * 3 * len(kills)

    asyncio.run(scenario())

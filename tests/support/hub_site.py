"""Several hub processes on one PostgreSQL, one object store and one broker, and devices that report to them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography.hazmat.primitives import serialization
from sqlmodel import col, select

from cloud_hub.broker.mosquitto import Mosquitto
from cloud_hub.broker.revocation import Revoked
from cloud_hub.config import HubConfig
from cloud_hub.context import Hub
from cloud_hub.identity.enroll import enroll
from cloud_hub.identity.tokens import Grant, create_token
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.store.tables import DeviceEvent, Job, Lease, SpoolCursor
from cloud_hub.trust.keys import CommandKey
from edge_agent.identity.keys import signed_by
from edge_agent.mqtt.link import Link
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.spool import Spool
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import Command, CommandKeys, EnrollRequest, EnrollResponse, ModelReport
from tests.support.device_key import DeviceKey
from tests.support.hub_process import ROOT, HubProcess, cloud_hub, free_port, serving
from tests.support.postgres import cluster, create_database
from tests.support.require import require
from tests.support.size import sized
from tests.support.uplink import make_uplink

WAIT_S = sized(120.0, 600.0)
REPORT_S = sized(0.1, 2.0)
_TOKEN = re.compile(r"el1\.\S+")


class Enrolled(NamedTuple):
    """The files of a device that a hub knows."""

    key: DeviceKey
    answer: EnrollResponse


def enrol(hub: Hub, name: str) -> Enrolled:
    """A device of `hub`, without a hub that serves."""
    with hub.session() as session:
        token = create_token(session, Grant(kind="claim", channel="stable"), now=hub.clock()).text
    key = DeviceKey()
    return Enrolled(key, enroll(hub, _wish(token, name, key)))


def enrol_at(process: HubProcess, admin: str, name: str) -> Enrolled:
    """The same by HTTP."""
    token = process.call("POST", "/api/v1/tokens", admin, {"kind": "claim", "channel": "stable"})["token"]
    key = DeviceKey()
    answer = process.call("POST", "/enroll", "", msgspec.to_builtins(_wish(token, name, key)))
    return Enrolled(key, msgspec.convert(answer, EnrollResponse))


def _wish(token: str, name: str, key: DeviceKey) -> EnrollRequest:
    _, identity, secret, *_ = token.split(".")
    return EnrollRequest(token=identity, secret=secret, csr=key.csr(), name=name)


class Device:
    """A device's real spool and uplink; `commands` are those that it was given."""

    def __init__(self, folder: Path, hub: Hub, name: str, enrolled: Enrolled) -> None:
        folder.mkdir()
        self.name, self.commands = name, list[str]()
        self.database = Database(folder / "spool.db")
        self.spool = Spool(self.database)
        key = hub.command_key
        assert isinstance(key, CommandKey)
        keys = CommandKeys(keys={key.key_id: key.public.hex()})
        self.uplink = make_uplink(
            link_of(hub, folder, name, enrolled),
            self.database,
            self.spool,
            key=lambda: keys,
            verify=signed_by,
            handle=self._obey,
            first_timeout_s=1.0,
        )

    def _obey(self, command: Command) -> None:
        self.commands.append(command.id)

    def report(self, number: int) -> None:
        report = ModelReport(model="tiny", state="idle", detail=str(number))
        self.spool.append("model", encode_msgpack(report), time.time())
        self.uplink.wake()


def link_of(hub: Hub, folder: Path, name: str, enrolled: Enrolled) -> Link:
    """To the hub's broker, with the device's certificate; its files lie in `folder`."""
    private = enrolled.key.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "device.pem").write_bytes(private + enrolled.answer.certificate.encode())
    context = ssl.create_default_context(cafile=str(hub.config.ca_file))
    context.load_cert_chain(folder / "device.pem")
    return Link(device_id=name, channel="stable", endpoint=enrolled.answer.mqtt, context=context)


class Site:
    """The database, the broker and the directories of two hubs, and a view of what the hubs share."""

    def __init__(self, base: Path, url: str, code: Path = ROOT) -> None:
        """`code` makes the hub; its version is that of the database until one of a newer version serves."""
        self.base, self.port = base, free_port()
        self.arguments = ("--broker-port", str(self.port))
        self.environment = {
            "EDGELOOP_HUB_BROKER__KIND": "external",
            "EDGELOOP_HUB_BROKER__HOST": "127.0.0.1",
            "EDGELOOP_HUB_JOURNAL": str(base / "journal"),
        }
        shared = ("--database", url, "--objects", str(base / "objects"))
        done = cloud_hub("init", base / "one", "--offline-keys", base / "off", *shared, code=code)
        assert done.returncode == 0, done.stderr
        (self.admin,) = _TOKEN.findall(done.stdout)
        for name in ("two", "broker"):
            shutil.copytree(base / "one", base / name)
        config = HubConfig.load(base / "broker", broker={"kind": "mosquitto", "port": self.port})
        self.hub = open_hub(config)
        self.broker = Mosquitto(config, self.hub.authority, Revoked(), time.time)

    def serve(self, name: str, code: Path = ROOT) -> contextlib.AbstractContextManager[HubProcess]:
        return serving(self.base / name, *self.arguments, code=code, **self.environment)

    def shares(self) -> list[int]:
        """The number of shards of each hub, the most first."""
        with self.hub.reading() as session:
            rows = session.exec(select(Lease.owner).where(col(Lease.name).startswith("ingest-shard:"))).all()
        return sorted(Counter(rows).values(), reverse=True)

    def jobs(self) -> list[Job]:
        with self.hub.reading() as session:
            return list(session.exec(select(Job)))


@contextlib.contextmanager
def made_site(base: Path, code: Path = ROOT) -> Iterator[Site]:
    """A site whose broker runs; the hubs are its user's to start."""
    require("mosquitto", "mosquitto")
    with cluster() as connection:
        site = Site(base, create_database(connection, "edgeloop_site"), code)
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

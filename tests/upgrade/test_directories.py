"""Directories that released versions wrote are opened by this one: nothing is lost, and everything goes on.

`tests/fixtures/write_directories.py` made them. The clock stands half a minute after they were left, at any date.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fastapi.testclient import TestClient
from msgspec import structs
from sqlalchemy import Boolean, Connection, MetaData, Table, func, select

from cloud_hub.app import create_app
from cloud_hub.config import HubConfig
from cloud_hub.ingest.ingestor import Ingestor, Message
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store.engine import make_engine
from cloud_hub.store.migrate import differences, upgrade
from cloud_hub.trust import ceremony
from edge_agent import client, runtimes
from edge_agent.config import AgentConfig
from edge_agent.identity.enroll import FILE, load_enrollment
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.spool import Spool
from edge_agent.update.updater import Updater
from fleet.protocol import topics
from fleet.protocol.codec import encode_json, encode_msgpack
from fleet.protocol.messages import Envelope
from tests.e2e.test_hub_and_agent import ask, until
from tests.support import models
from tests.support.agent_process import running
from tests.support.device import LOOP, FakeActivator, FakeReporter
from tests.support.in_process import InProcessChildren
from tests.support.postgres import cluster, create_database
from tests.support.server import serving
from tests.support.updaters import make_updater

FIXTURES = Path(__file__).parents[1] / "fixtures"
VERSIONS = sorted(path.parent.name for path in FIXTURES.glob("*/tokens.json"))
LATER_S = 30.0


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A PostgreSQL cluster of this module."""
    with cluster() as connection:
        yield connection


class Left:
    """Copies of what one version left, and the time at which it did so."""

    def __init__(self, version: str, base: Path, database: str = "") -> None:
        source = FIXTURES / version
        self.hub, self.device, self.offline = (
            Path(shutil.copytree(source / name, base / name)) for name in ("hub", "device", "offline")
        )
        self.tokens = json.loads((source / "tokens.json").read_text())
        (self.device / "identity" / "device.key").chmod(0o600)  # git keeps no such modes
        with sqlite3.connect(self.hub / "hub.db") as file:
            self.at = float(file.execute("SELECT max(at) FROM auditentry").fetchone()[0])
        self.now = self.at + LATER_S
        self.database = database
        if database:
            move(self.hub / "hub.db", database)
        self.opened: Any = None

    def open(self) -> Any:
        """The hub, its database brought to this version."""
        config = HubConfig.load(self.hub, **({"database": self.database} if self.database else {}))
        engine = make_engine(config.database_url)
        upgrade(engine)
        assert differences(engine) == []
        engine.dispose()
        self.opened = open_hub(config, clock=lambda: self.now)
        self.opened.publisher.recover()
        self.opened.publisher.refresh()
        return self.opened

    def call(self, method: str, path: str, body: Any = None, token: str = "admin") -> Any:
        web = TestClient(create_app(self.opened), raise_server_exceptions=True)
        headers = {"Authorization": f"Bearer {self.tokens[token]}"}
        answer = web.request(method, path, json=body, headers=headers)
        assert answer.status_code < 300, (path, answer.status_code, answer.text)
        return answer.json()


def move(source: Path, url: str) -> None:
    """Copy every row of a hub's SQLite file into an empty PostgreSQL database of the same revision."""
    old, new = make_engine(f"sqlite:///{source}"), make_engine(url)
    with old.connect() as reading:
        revision = reading.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
        upgrade(new, revision)
        tables = MetaData()
        tables.reflect(new)
        with new.begin() as writing:
            for table in tables.sorted_tables:
                rows = reading.exec_driver_sql(f'SELECT * FROM "{table.name}"').mappings().all()
                if rows and table.name != "alembic_version":
                    writing.execute(table.insert(), [converted(table, row) for row in rows])
                    go_on_counting(writing, table)
    old.dispose()
    new.dispose()


def go_on_counting(connection: Connection, table: Table) -> None:
    """The sequence behind a numbered table goes on after the copied rows."""
    serial = "SELECT pg_get_serial_sequence(%s, 'id')"
    if "id" in table.columns and (name := connection.exec_driver_sql(serial, (f'"{table.name}"',)).scalar_one()):
        connection.execute(select(func.setval(name, select(func.max(table.c.id)).scalar_subquery())))


def converted(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """SQLite keeps truth values as numbers."""
    truths = {column.name for column in table.columns if isinstance(column.type, Boolean)}
    return {name: bool(value) if name in truths and value is not None else value for name, value in row.items()}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["sqlite", "postgresql"])
def left(request: pytest.FixtureRequest, version: str, tmp_path: Path) -> Left:
    """The directory that a version left, its database where it was or moved to PostgreSQL before the upgrade."""
    if request.param == "sqlite":
        return Left(version, tmp_path)
    return Left(
        version, tmp_path, create_database(request.getfixturevalue("postgres"), f"upgrade_{secrets.token_hex(4)}")
    )


@pytest.fixture
def device_left(version: str, tmp_path: Path) -> Left:
    return Left(version, tmp_path)


def live_rollout(left: Left) -> str:
    (found,) = (r["id"] for r in left.call("GET", "/api/v1/rollouts")["items"] if r["state"] == "running")
    return str(found)


def updater(left: Left, url: str) -> tuple[Updater, FakeActivator]:
    """The device's updater, half a minute later, with the hub at `url`."""
    enrolled = structs.replace(load_enrollment(left.device), hub=url)
    (left.device / "identity" / FILE).write_bytes(encode_json(enrolled))
    config = AgentConfig(dir=left.device, disk_reserve_bytes=0)
    serves, clock = FakeActivator(), lambda: left.now
    made = make_updater(
        config,
        enrolled.device_id,
        enrolled.channel,
        serves,
        FakeReporter(),
        InProcessChildren(config, clock),
        kinds=tuple(runtimes.kinds()),
        clock=clock,
    )
    return made, serves


def test_there_are_directories_of_every_released_version() -> None:
    assert "0.1.0" in VERSIONS


def test_a_hub_keeps_everything_it_had(left: Left) -> None:
    left.open()
    devices = {device["id"]: device for device in left.call("GET", "/api/v1/devices")["items"]}
    assert set(devices) == {"cam-1", "cam-2", "cam-3"}
    assert devices["cam-1"]["labels"] == {"site": "berlin"}
    assert left.call("GET", "/api/v1/devices/cam-3")["state"] == "revoked"
    (model,) = left.call("GET", "/api/v1/devices/cam-1")["models"]
    assert (model["active"], model["state"]) == (2, "committed")
    assert len(left.call("GET", "/api/v1/models/tiny/releases")["items"]) == 3
    samples = left.call("GET", "/api/v1/samples?model=tiny&limit=500")["items"]
    assert sum(sample["label"] is not None for sample in samples) == 3 < len(samples)
    assert len(left.call("GET", f"/api/v1/samples/{samples[0]['id']}")["inputs"]) == 1
    assert len(left.call("GET", "/api/v1/snapshots")["items"]) == 1
    assert len(left.call("GET", "/api/v1/tokens")["items"]) == 5
    assert left.call("GET", "/api/v1/audit?limit=100")["items"]
    assert {r["state"] for r in left.call("GET", "/api/v1/rollouts")["items"]} == {"finished", "running"}
    assert left.call("GET", "/api/v1/drift")["items"]


def test_a_hub_answers_its_applications_as_before(left: Left) -> None:
    left.open()
    x = models.inputs(1)
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": x.ravel().tolist()}]}
    (output,) = left.call("POST", "/v2/models/tiny/versions/1/infer", body, token="application")["outputs"]
    np.testing.assert_allclose(np.array(output["data"]), models.answer(x).ravel(), rtol=1e-5)


def test_a_hub_knows_which_interface_its_models_have(left: Left) -> None:
    left.open()
    model = left.call("GET", "/api/v1/models/tiny")
    served = left.call("GET", "/api/v1/channels/stable")["document"]["models"]["tiny"]["release"]
    assert model["interface"]["release"] == served and model["disputed"] == []


def test_a_hub_whose_releases_disagree_publishes_nothing_before_one_is_chosen(left: Left) -> None:
    """A retrain of 0.1 could come back with an input of another name, and was published."""
    table = make_engine(left.database or f"sqlite:///{left.hub / 'hub.db'}")
    with table.begin() as connection:
        manifests = Table("release", MetaData(), autoload_with=connection)
        row = connection.execute(select(manifests.c.number, manifests.c.manifest).order_by(manifests.c.number)).first()
        assert row is not None
        renamed = bytes(row.manifest).replace(b'"name":"input"', b'"name":"x"')
        assert renamed != bytes(row.manifest)
        connection.execute(manifests.update().where(manifests.c.number == row.number).values(manifest=renamed))
    table.dispose()
    left.open()
    model = left.call("GET", "/api/v1/models/tiny")
    assert model["disputed"] and row.number in model["disputed"]
    entries = left.call("GET", "/api/v1/audit?limit=1000")["items"]
    assert [entry["subject"] for entry in entries if entry["action"] == "model.disputed"] == ["tiny"]
    newest = left.call("GET", f"/api/v1/models/tiny/releases/{max(model['disputed'])}")["manifest"]
    web = TestClient(create_app(left.opened), raise_server_exceptions=True)
    headers = {"Authorization": f"Bearer {left.tokens['admin']}"}
    refused = web.post("/api/v1/models/tiny/releases", json=newest, headers=headers)
    assert refused.status_code == 409 and "disagree on its interface" in refused.json()["error"]
    left.call("PATCH", "/api/v1/models/tiny", {"interface_from": max(model["disputed"])})
    assert web.post("/api/v1/models/tiny/releases", json=newest, headers=headers).status_code == 201


def test_a_hub_takes_what_a_device_of_that_version_still_holds(left: Left) -> None:
    hub = left.open()
    database = Database(left.device / "spool.db")
    spool = Spool(database)
    waiting = spool.after(0, 1000)
    assert waiting, "the device's spool holds records that nobody has received"
    with hub.reading() as session:
        before = session.connection().exec_driver_sql('SELECT count(*) FROM "window"').scalar_one()
    batch = [
        Message(
            topics.uplink("cam-1", "telemetry" if record.kind == "window" else "report"),
            encode_msgpack(
                Envelope(
                    device="cam-1",
                    spool=spool.oldest.id,
                    seq=record.seq,
                    base=spool.base,
                    at=record.at,
                    kind=record.kind,
                    body=msgspec.Raw(record.body),  # type: ignore[arg-type]
                )
            ),
        )
        for record in waiting
    ]
    assert Ingestor(hub).take(batch), "a receipt goes out"
    with hub.reading() as session:
        after = session.connection().exec_driver_sql('SELECT count(*) FROM "window"').scalar_one()
        committed = session.connection().exec_driver_sql("SELECT max(committed) FROM spoolcursor").scalar_one()
    assert after > before and committed == waiting[-1].seq
    database.close()


def test_a_live_rollout_goes_on_and_can_be_aborted(left: Left) -> None:
    hub = left.open()
    rollout = live_rollout(left)
    RolloutEngine(hub).look()
    assert left.call("GET", f"/api/v1/rollouts/{rollout}")["state"] == "running"
    before = left.call("GET", "/api/v1/channels/stable")["document"]["version"]
    assert left.call("POST", f"/api/v1/rollouts/{rollout}/abort", {})["state"] == "aborted"
    channel = left.call("GET", "/api/v1/channels/stable")["document"]
    assert channel["version"] > before and channel["models"]["tiny"]["rollout"] is None


def test_keys_are_renewed_with_the_offline_keys_of_that_version(left: Left) -> None:
    hub = left.open()
    assert set(ceremony.renew(hub.publisher.transactions, left.offline, b"secret")) == {"root", "targets", "models"}


def test_a_device_serves_what_it_had_committed(device_left: Left) -> None:
    """A real agent process, without its hub, at today's date: certificates and metadata may have ended long ago."""
    with running(device_left.device, "--port", "0") as (_, address):
        until(lambda: ask(address), "the agent serves")
        answer = client.infer("tiny", np.array([[9, 0, 0, 0]], np.float32), url=address)
        assert str(answer.parameters["release"]) == "2"


def test_a_device_follows_an_upgraded_hub_there_and_back(left: Left) -> None:
    hub = left.open()
    rollout = live_rollout(left)
    with serving(create_app(hub)) as (where, _loop):
        device, serves = updater(left, f"http://{where}")
        LOOP.run(device.start())
        assert serves.serving == {"tiny": 2}
        LOOP.run(device.look())
        left.call("POST", f"/api/v1/rollouts/{rollout}/abort", {})
        LOOP.run(device.look())
        assert (serves.serving, device.file.model("tiny").active.release) == ({"tiny": 2}, 2)
        left.call("PUT", "/api/v1/channels/stable/models/tiny", {"release": 3})
        LOOP.run(device.look())
        assert serves.serving == {"tiny": 3}, "an install"
        left.call("PUT", "/api/v1/channels/stable/models/tiny", {"release": 2})
        LOOP.run(device.look())
        assert serves.serving == {"tiny": 2}, "and a way back"

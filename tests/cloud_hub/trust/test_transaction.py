"""No version ever has two bodies: two processes at once, crashes, restored backups, torn files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlmodel import select

from cloud_hub.config import HubConfig
from cloud_hub.errors import ConflictError
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.ports import Objects
from cloud_hub.store.tables import AuditEntry, ChannelRow, Metadata, Model
from cloud_hub.trust import repository
from cloud_hub.trust.repository import version_of
from fleet.protocol.channel import Channel, ModelEntry, decode_channel
from tests.support.hub import HubFixture, make_hub
from tests.support.size import sized
from tests.support.tuf_client import client, target

PUBLISHER = """
import sys
from pathlib import Path
import msgspec
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.config import HubConfig
hub = open_hub(HubConfig.load(Path(sys.argv[1])))
def change(channel):
    return msgspec.structs.replace(channel, fetching=msgspec.structs.replace(
        channel.fetching, max_bytes_per_s=channel.fetching.max_bytes_per_s + 1))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    hub.publisher.change_channel("stable", change, actor="test")
"""
EACH = sized(40, 200)  # each waits for the other dozens of times


def bump(channel: Channel) -> Channel:
    return msgspec.structs.replace(channel, models={"digits": ModelEntry(release=1)})


def metadata_matches_rows(hub) -> None:  # type: ignore[no-untyped-def]
    """Each numbered file equals its row, and each row of a numbered role has its file."""
    with hub.reading() as session:
        rows = {(row.role, row.version): row.body for row in session.exec(select(Metadata))}
    files = {}
    for item in hub.objects.list("tuf/metadata"):
        name = item.key.rpartition("/")[2]
        if name != "timestamp.json":
            version, role, _ = name.split(".")
            files[role, int(version)] = hub.objects.get(item.key).data
    assert files == {key: body for key, body in rows.items() if key[0] != "timestamp"}
    published = hub.objects.get("tuf/metadata/timestamp.json").data
    assert rows["timestamp", version_of(published)] == published


def test_two_processes_publish_at_once(tmp_path: Path, hub_database: str) -> None:
    fixture = make_hub(tmp_path, database=hub_database, start=time.time())
    directory = fixture.hub.config.directory
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(directory), str(EACH)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    for worker in workers:
        worker.stdin.close()  # type: ignore[union-attr]
        worker.stdout.close()  # type: ignore[union-attr]
    metadata_matches_rows(fixture.hub)
    with fixture.hub.reading() as session:
        row = session.get(ChannelRow, "stable")
        assert row is not None
        document = decode_channel(row.document)
        versions = session.exec(select(Metadata.version).where(Metadata.role == "channels")).all()
    assert document.version == document.fetching.max_bytes_per_s == 2 * EACH
    assert len(versions) == len(set(versions)) == 2 * EACH + 1
    data = target(client(fixture.hub.objects, tmp_path / "device"), "channels/stable.json")
    assert data == row.document
    fixture.hub.engine.dispose()


@pytest.fixture
def live(tmp_path: Path) -> HubFixture:
    fixture = make_hub(tmp_path, start=time.time())
    fixture.model()
    fixture.release()
    return fixture


class Crash(Exception):
    """A process that ends here."""


def test_a_crash_before_the_commit_leaves_the_number_unused(live: HubFixture, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    transactions = live.hub.publisher.transactions  # type: ignore[attr-defined]
    honest = transactions.put_numbered

    def crash(role: str, version: int, body: bytes) -> bool:
        kept = honest(role, version, body)
        if role == "snapshot":
            raise Crash
        return bool(kept)

    monkeypatch.setattr(transactions, "put_numbered", crash)
    with pytest.raises(Crash):
        live.hub.publisher.change_channel("stable", bump, actor="t")
    monkeypatch.undo()
    orphan = live.hub.objects.get("tuf/metadata/2.channels.json").data
    live.clock.advance(1)
    assert live.hub.publisher.change_channel("stable", bump, actor="t").version == 1
    assert live.hub.objects.get("tuf/metadata/2.channels.json").data == orphan
    with live.hub.reading() as session:
        assert session.get(Metadata, ("channels", 2)) is None
        assert session.get(Metadata, ("channels", 3)) is not None
    assert target(client(live.hub.objects, tmp_path / "device"), "channels/stable.json") is not None


def test_a_crash_after_the_commit_is_recovered(live: HubFixture, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    transactions = live.hub.publisher.transactions  # type: ignore[attr-defined]

    def crash(body: bytes) -> bool:
        raise Crash

    monkeypatch.setattr(transactions, "push_timestamp", crash)
    with pytest.raises(Crash):
        live.hub.publisher.change_channel("stable", bump, actor="t")
    monkeypatch.undo()
    assert target(client(live.hub.objects, tmp_path / "before"), "channels/stable.json") is None
    reopened = open_hub(live.hub.config, clock=live.clock)
    reopened.publisher.recover()
    assert target(client(live.hub.objects, tmp_path / "after"), "channels/stable.json") is not None
    metadata_matches_rows(live.hub)


def test_torn_and_lost_files_are_put_again(live: HubFixture, tmp_path: Path) -> None:
    live.hub.publisher.change_channel("stable", bump, actor="t")
    root = live.hub.config.directory / "objects" / "tuf"
    for path in (root / "metadata").iterdir():
        path.write_bytes(b"")
    shutil.rmtree(root / "targets")
    live.hub.publisher.recover()
    updater = client(live.hub.objects, tmp_path / "device")
    for path in ("channels/stable.json", "models/digits/1.json", "models/digits/floor.json", "hub/command-key.json"):
        assert target(updater, path) is not None


def test_a_restored_backup_signs_above_what_devices_saw(tmp_path: Path) -> None:
    fixture = make_hub(tmp_path, start=time.time())
    fixture.model()
    fixture.release()
    fixture.hub.publisher.change_channel("stable", bump, actor="t")
    fixture.hub.engine.dispose()
    database = fixture.hub.config.directory / "hub.db"
    shutil.copy(database, tmp_path / "backup.db")
    fixture.release(seed=1)
    for _ in range(3):
        fixture.clock.advance(1)
        fixture.hub.publisher.change_channel("stable", bump, actor="t")
    seen = client(fixture.hub.objects, tmp_path / "device")
    before = decode_channel(target(seen, "channels/stable.json") or b"").version
    fixture.hub.engine.dispose()
    for leftover in fixture.hub.config.directory.glob("hub.db*"):
        leftover.unlink()
    shutil.copy(tmp_path / "backup.db", database)
    fixture.clock.advance(1)
    restored = open_hub(fixture.hub.config, clock=fixture.clock)
    restored.publisher.recover()
    assert restored.publisher.change_channel("stable", bump, actor="t").version > before
    after = client(fixture.hub.objects, tmp_path / "device")
    assert decode_channel(target(after, "channels/stable.json") or b"").version > before
    with restored.session() as session:
        model = session.get(Model, "digits")
        assert model is not None and model.next_release == 3


def test_two_databases_on_one_store_are_noticed(live: HubFixture) -> None:
    key = "tuf/metadata/1.targets.json"
    other = make_hub(live.hub.config.directory.parent / "other")
    live.hub.objects.put(key, other.hub.objects.get(key).data)
    with pytest.raises(ConflictError, match="differs from the database"):
        live.hub.publisher.recover()


def test_a_process_reads_its_configuration(live: HubFixture) -> None:
    assert open_hub(HubConfig.load(live.hub.config.directory)).publisher.refresh(force=True)


class Overtaken:
    """An object store in which somebody else is faster once: a timestamp that our database does not know."""

    def __init__(self, objects: Objects, foreign: bytes) -> None:
        self._objects = objects
        self._foreign: bytes | None = foreign

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def put_if_match(self, key: str, data: bytes, tag: str | None) -> str:
        if self._foreign is not None:
            self._objects.put(key, self._foreign)
            self._foreign = None
        return self._objects.put_if_match(key, data, tag)


def test_the_loser_signs_again(live: HubFixture, tmp_path: Path) -> None:
    publisher = live.hub.publisher
    body = live.hub.objects.get("tuf/metadata/timestamp.json").data
    stamp = repository.read(body).signed
    foreign = repository.sign(stamp, stamp.version + 5, list(publisher.transactions.signers["timestamp"]))  # type: ignore[attr-defined]
    publisher.transactions.objects = Overtaken(live.hub.objects, foreign)  # type: ignore[attr-defined]
    publisher.change_channel("stable", bump, actor="t")
    updater = client(live.hub.objects, tmp_path / "device")
    assert target(updater, "channels/stable.json") is not None
    assert version_of(live.hub.objects.get("tuf/metadata/timestamp.json").data) == stamp.version + 1
    with live.hub.reading() as session:
        assert len(session.exec(select(AuditEntry).where(AuditEntry.action == "channel.change")).all()) == 1
    metadata_matches_rows(live.hub)

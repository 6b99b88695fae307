"""A backup is taken while the hub runs, is whole or not there, and becomes the same hub on either database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import Session, SQLModel

from cloud_hub.backup import database, make, manifest, restore, sealed
from cloud_hub.backup.make import make_backup
from cloud_hub.config import HubConfig
from cloud_hub.errors import ConflictError, ForbiddenError, HubError, InvalidError, NotFoundError, UnreachableError
from cloud_hub.events.kinds import Event
from cloud_hub.events.outbox import find, record, unspread
from cloud_hub.objects import LocalObjects, open_objects
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.opening.lock import hub_lock
from cloud_hub.store.engine import make_engine
from cloud_hub.store.tables import AuditEntry, Device, OutboxCommand, Setting
from tests.cloud_hub.backup.conftest import device, fill, tree
from tests.support.hub import START, HubFixture, make_hub
from tests.support.postgres import create_database

WORDS = b"a passphrase"
# Tables that a restore changes: who is online, what is signed above it, and what triggers note of that.
CHANGED = {"auditentry", "device", "outboxcommand", "channel", "metadata", "setting", "device_change"}


@pytest.fixture
def filled(hub: HubFixture) -> HubFixture:
    fill(hub)
    return hub


def take(hub: HubFixture, folder: Path, passphrase: bytes | None = WORDS) -> manifest.Manifest:
    return make_backup(hub.hub.config, folder, passphrase=passphrase, now=START)


def put_back(folder: Path, directory: Path, **changes: Any) -> restore.Restored:
    arguments: dict[str, Any] = {
        "chosen": {},
        "passphrase": lambda: WORDS,
        "replace": False,
        "now": START + 9,
    } | changes
    given = {name: arguments.pop(name) for name in ("passphrase", "keys", "journal") if name in arguments}
    return restore.restore(restore.Source(folder, **given), directory, **arguments)


def rows(url: str) -> dict[str, list[Any]]:
    """All rows of all tables."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            found = {}
            for table in SQLModel.metadata.sorted_tables:
                keys = list(table.primary_key.columns)
                found[table.name] = [tuple(row) for row in connection.execute(sa.select(table).order_by(*keys))]
            return found
    finally:
        engine.dispose()


def test_a_hub_comes_back_as_it_was(filled: HubFixture, tmp_path: Path) -> None:
    made = take(filled, tmp_path / "b")
    put_back(tmp_path / "b", tmp_path / "again")
    config = HubConfig.load(tmp_path / "again")
    before, after = rows(filled.hub.config.database_url), rows(config.database_url)
    for table in before.keys() - CHANGED:
        assert before[table] == after[table], table
    assert made.missing == () and tree(config.keys_dir) == tree(filled.hub.config.keys_dir)
    stored, again = (tree(Path(one.objects_url)) for one in (filled.hub.config, config))
    held = {name: data for name, data in again.items() if not name.startswith("tuf/")}
    assert {name: stored.get(name) for name in held} == held
    gone = {name for name in stored if name not in again and not name.startswith("tuf/")}
    assert gone == {"blobs/" + "f" * 64}, "what nothing names"
    hub = open_hub(config, clock=filled.clock)
    assert hub.publisher.change_channel("stable", lambda channel: channel, actor="test").version > 1_000_000
    with hub.reading() as session:
        known = session.get(Device, "cam-1")
        assert known is not None and not known.online


@pytest.mark.parametrize("to", ["sqlite", "postgresql"])
def test_a_hub_moves_between_databases(postgres: str, hub_database: str, to: str, tmp_path: Path) -> None:
    made = make_hub(tmp_path, database=hub_database)
    fill(made)
    take(made, tmp_path / "b")
    url = create_database(postgres, "edgeloop_restored") if to == "postgresql" else f"sqlite:///{tmp_path / 'r.db'}"
    chosen = {"database": url, "objects": str(tmp_path / "store")}
    put_back(tmp_path / "b", tmp_path / "again", chosen=chosen)
    before, after = rows(hub_database), rows(url)
    for table in before.keys() - CHANGED:
        assert before[table] == after[table], table
    config = HubConfig.load(tmp_path / "again")
    assert (config.database, config.objects) == (url, chosen["objects"])
    engine = make_engine(url)
    with Session(engine) as session, session.begin():  # new rows are numbered above the old ones
        session.add(AuditEntry(at=1.0, actor="a", action="b", subject="c"))
    engine.dispose()
    assert len({row[0] for row in rows(url)["auditentry"]}) == len(after["auditentry"]) + 1


def test_it_is_one_moment_while_others_write(
    hub_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_hub(tmp_path, database=hub_database)
    fill(made)
    before = rows(hub_database)
    written: list[str] = []

    def write() -> None:
        """Rows committed after the moment are in no table of the backup."""
        engine = make_engine(hub_database)
        with Session(engine) as session, session.begin():
            session.add(Setting(key=f"late-{len(written)}", value="x"))
            session.add(AuditEntry(at=1.0, actor="late", action="b", subject="c"))
        engine.dispose()
        written.append("x")

    if hub_database.startswith("sqlite"):
        open_writer = make_engine(hub_database)
        with Session(open_writer) as session, session.begin():
            session.add(Setting(key="uncommitted", value="x"))
            session.flush()  # holds the only write lock, and does not hold the backup up
            made_backup = take(made, tmp_path / "b")
        open_writer.dispose()
    else:
        plain = database._plain
        monkeypatch.setattr(database, "_plain", lambda table: (write(), plain(table))[1])
        copied = database._copy_rows

        def copy(source: Any, target: Any) -> None:
            source.execute(sa.text("SELECT 1 FROM setting")).all()  # the snapshot begins with the first statement
            copied(source, target)

        monkeypatch.setattr(database, "_copy_rows", copy)
        made_backup = take(made, tmp_path / "b")
        assert len(written) == len(before) > 20
    assert made_backup.missing == ()
    assert rows(f"sqlite:///{tmp_path / 'b' / 'hub.db'}") == before


def test_nobody_else_reads_it_and_keys_are_sealed(filled: HubFixture, tmp_path: Path) -> None:
    assert take(filled, tmp_path / "b").has_keys
    assert not take(filled, tmp_path / "without", None).has_keys
    for folder in ("b", "without"):
        modes = {path.stat().st_mode & 0o777 for path in (tmp_path / folder).rglob("*") if path.is_file()}
        assert modes == {0o600} and (tmp_path / folder).stat().st_mode & 0o777 == 0o700
    secrets = [data for name, data in tree(filled.hub.config.keys_dir).items() if not name.endswith("ca.pem")]
    everything = b"".join(tree(tmp_path / "b").values()) + b"".join(tree(tmp_path / "without").values())
    assert len(secrets) > 5 and not any(secret in everything for secret in secrets)
    with pytest.raises(ForbiddenError, match="wrong passphrase"):
        put_back(tmp_path / "b", tmp_path / "again", passphrase=lambda: b"another")
    assert not (tmp_path / "again").exists()


def test_what_fails_leaves_nothing(filled: HubFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of a backup or of a restore that fails leaves half of one."""
    take(filled, tmp_path / "whole")

    def fails(*arguments: Any, **named: Any) -> Any:
        raise UnreachableError("the disk is gone")

    steps: list[tuple[Any, str]] = [
        (database, "copy_out"),
        (make, "copy_objects"),
        (sealed, "seal"),
        (make, "encode"),
        (make, "sync"),
    ]
    for module, name in steps:
        with monkeypatch.context() as patch, pytest.raises(UnreachableError):
            patch.setattr(module, name, fails)
            take(filled, tmp_path / "b")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "offline", "whole"], name
    steps = [
        (restore, "_stage_database"),
        (restore, "_stage_keys"),
        (restore.placing, "put"),
        (restore.placing, "place_database"),
        (restore.placing, "place_keys"),
        (restore, "open_hub"),
    ]
    for module, name in steps:
        with monkeypatch.context() as patch, pytest.raises(UnreachableError):
            patch.setattr(module, name, fails)
            put_back(tmp_path / "whole", tmp_path / "again")
        assert not (tmp_path / "again").exists(), name


def test_a_replaced_hub_whose_restore_fails_is_still_the_old_one(
    filled: HubFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(filled, tmp_path / "b")
    filled.hub.engine.dispose()
    url = filled.hub.config.database_url
    before, kept = tree(filled.hub.config.directory), rows(url)

    def fails(*arguments: Any) -> Any:
        raise UnreachableError("the disk is gone")

    monkeypatch.setattr(restore.placing, "place_database", fails)
    with pytest.raises(UnreachableError):
        put_back(tmp_path / "b", filled.hub.config.directory, replace=True)
    after = tree(filled.hub.config.directory)
    assert rows(url) == kept and after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if not name.startswith("hub."))
    assert after["hub.toml"] == before["hub.toml"]


def damaged_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_every_damage_is_found_before_anything_is_written(filled: HubFixture, tmp_path: Path) -> None:
    take(filled, tmp_path / "b")
    for path in damaged_files(tmp_path / "b"):
        whole = path.read_bytes()
        for broken in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), None):
            path.write_bytes(broken) if broken is not None else path.unlink()
            with pytest.raises((InvalidError, NotFoundError)) as raised:
                put_back(tmp_path / "b", tmp_path / "again")
            assert raised.value.hint and not (tmp_path / "again").exists(), path
            path.write_bytes(whole)
    put_back(tmp_path / "b", tmp_path / "again")


def test_a_newer_version_is_refused_by_its_name(
    filled: HubFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make.database, "revision", lambda file: "9999")
    take(filled, tmp_path / "b")
    monkeypatch.undo()
    with pytest.raises(InvalidError, match="9999, which is newer"):
        put_back(tmp_path / "b", tmp_path / "again")


def _locked(hub: HubFixture) -> Any:
    return hub_lock(hub.hub.config.directory, "serve")


def _opened(hub: HubFixture) -> Any:
    return make_engine(hub.hub.config.database_url).connect()


@pytest.mark.parametrize(("alive", "words"), [(_locked, "owns the hub"), (_opened, "in use")])
def test_a_living_hub_is_not_restored_over(
    filled: HubFixture,
    tmp_path: Path,
    alive: Callable[[HubFixture], Any],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.0)
    take(filled, tmp_path / "b")
    filled.hub.engine.dispose()
    with alive(filled) as connection:
        if connection is not None:
            connection.execute(sa.text("SELECT 1 FROM setting")).all()
        with pytest.raises(ConflictError, match=words):
            put_back(tmp_path / "b", filled.hub.config.directory, replace=True)


def test_a_living_postgres_is_not_restored_over(postgres: str, filled: HubFixture, tmp_path: Path) -> None:
    take(filled, tmp_path / "b")
    url = create_database(postgres, "edgeloop_living")
    engine = make_engine(url)
    with engine.connect(), pytest.raises(ConflictError, match="1 other connection"):
        put_back(tmp_path / "b", tmp_path / "again", chosen={"database": url})
    engine.dispose()
    put_back(tmp_path / "b", tmp_path / "again", chosen={"database": url})
    with pytest.raises(ConflictError, match="holds a hub already"):
        put_back(tmp_path / "b", tmp_path / "twice", chosen={"database": url})


def test_what_is_there_is_replaced_only_on_demand(filled: HubFixture, tmp_path: Path) -> None:
    with filled.hub.session() as session:
        old = record(session, Event(kind="job.failed", subject="j", message="it failed"), filled.clock())
    take(filled, tmp_path / "b", None)
    directory = filled.hub.config.directory
    with filled.hub.session() as session:
        session.add(device("cam-2"))
        session.add(OutboxCommand(id="c", device_id="cam-2", kind="diagnose", created_at=1.0, expires_at=9.0))
    filled.hub.publisher.change_channel("stable", lambda channel: channel, actor="test")
    filled.hub.objects.put("samples/model=digits/day=1/a.parquet", b"another partition")
    filled.hub.engine.dispose()
    with pytest.raises(ConflictError, match="holds a hub already"):
        put_back(tmp_path / "b", directory)
    put_back(tmp_path / "b", directory, replace=True)  # the directory's own keys stay
    hub = open_hub(HubConfig.load(directory), clock=filled.clock)
    with hub.reading() as session:
        assert session.get(Device, "cam-2") is None and session.get(Device, "cam-1") is not None
        assert find(session, old) is not None and not unspread(session), "it may have been sent since"
    assert hub.objects.get("samples/model=digits/day=1/a.parquet").data == b"a partition"
    changed = hub.publisher.change_channel("stable", lambda channel: channel, actor="test")
    assert changed.version > 2, "devices have seen version 2, which is in the store that stayed"


def test_keys_of_another_hub_and_no_keys_are_refused(filled: HubFixture, tmp_path: Path) -> None:
    take(filled, tmp_path / "b", None)
    with pytest.raises(NotFoundError, match="no keys"):
        put_back(tmp_path / "b", tmp_path / "again")
    other = make_hub(tmp_path / "other")
    with pytest.raises(InvalidError, match="not this hub's"):
        put_back(tmp_path / "b", tmp_path / "again", keys=other.hub.config.keys_dir)
    with pytest.raises(ForbiddenError, match="offline key"):
        put_back(tmp_path / "b", tmp_path / "again", keys=filled.offline)
    with pytest.raises(ConflictError, match="another hub"):
        chosen = {"objects": other.hub.config.objects_url}
        put_back(tmp_path / "b", tmp_path / "again", chosen=chosen, keys=filled.hub.config.keys_dir, replace=True)
    put_back(tmp_path / "b", tmp_path / "again", keys=filled.hub.config.keys_dir)


def test_an_object_that_is_lost_or_rotten_is_said(filled: HubFixture, tmp_path: Path) -> None:
    blob = next(found.key for found in filled.hub.objects.list("blobs") if not found.key.endswith("ff"))
    store = filled.hub.objects
    store.put(blob, b"rotten")
    store.delete("snapshots/digits/s.parquet")
    made = take(filled, tmp_path / "b")
    assert set(made.missing) == {blob, "snapshots/digits/s.parquet"}
    put_back(tmp_path / "b", tmp_path / "again")


def test_another_kind_of_store_takes_the_objects(
    filled: HubFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store that compares tags itself, as S3 does; the contract of `Objects` holds for both."""
    store = open_objects("memory://")
    for found in filled.hub.objects.list("blobs"):
        store.put(found.key, filled.hub.objects.get(found.key).data)
    for key in ("samples/model=digits/day=1/a.parquet", "snapshots/digits/s.parquet"):
        store.put(key, filled.hub.objects.get(key).data)
    monkeypatch.setattr(make, "open_objects", lambda url: store)
    made = take(filled, tmp_path / "b")
    assert made.missing == ()
    again = open_objects("memory://")
    monkeypatch.setattr(restore, "open_objects", lambda url: again)
    monkeypatch.setattr("cloud_hub.opening.bootstrap.open_objects", lambda url: again)
    put_back(tmp_path / "b", tmp_path / "again")
    assert {found.key for found in again.list("samples")} == {"samples/model=digits/day=1/a.parquet"}
    assert again.exists("tuf/metadata/timestamp.json")


def test_the_commands_say_what_they_did_and_what_is_secret(filled: HubFixture, tmp_path: Path, command: Any) -> None:
    directory = filled.hub.config.directory
    code, _, error = command("backup", directory, directory / "b")
    assert code == 1 and "another disk" in error
    code, out, error = command("backup", directory, tmp_path / "b", "--with-keys", "--json")
    assert code == 0 and json.loads(out)["keys"] and "whoever has both can sign" in error and "samples" in error
    code, _, error = command("backup", directory, tmp_path / "b")
    assert code == 5 and "exists already" in error and "try: " in error
    assert command("restore", tmp_path / "b", "--check")[:2] == (0, f"the backup in {tmp_path / 'b'} is whole\n")
    code, _, error = command("restore", tmp_path / "b")
    assert code == 2 and "where" in error
    assert command("restore", tmp_path / "nothing", tmp_path / "x")[0] == 3
    code, out, _ = command("restore", tmp_path / "b", tmp_path / "again")
    assert code == 0 and "next: cloud-hub serve" in out
    (tmp_path / "again" / "hub.db").write_bytes(b"rubbish")
    assert command("restore", tmp_path / "b", tmp_path / "again", "--replace")[0] == 0, "what is damaged is replaced"


def test_a_wrong_database_is_a_sentence(filled: HubFixture, tmp_path: Path) -> None:
    filled.hub.engine.dispose()
    with sqlite3.connect(filled.hub.config.directory / "hub.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(ConflictError, match="not at the version"):
        take(filled, tmp_path / "b")
    (filled.hub.config.directory / "hub.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(HubError, match="damaged"):
        take(filled, tmp_path / "b")
    assert isinstance(filled.hub.objects, LocalObjects) and not (tmp_path / "b").exists()

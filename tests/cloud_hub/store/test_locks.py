"""Locks that are different keep nobody waiting for each other, and a migration beside hubs that write ends well."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlmodel import Session

import cloud_hub
from cloud_hub.errors import ConflictError
from cloud_hub.store import migrate, windows
from cloud_hub.store.engine import make_engine
from cloud_hub.store.locks import Lock, hold_lock
from tests.support.databases import migrated_postgres
from tests.support.postgres import create_database
from tests.support.races import Meanwhile


@pytest.fixture
def engine(postgres: str) -> Iterator[Engine]:
    """A database before the migration that puts triggers on what ingest writes."""
    made = make_engine(create_database(postgres, "edgeloop_locks"))
    migrate.upgrade(made, "0017")
    yield made
    made.dispose()


def test_every_lock_is_taken_in_one_module_and_has_a_number_of_its_own() -> None:
    root = Path(cloud_hub.__file__).parent
    taking = [str(path.relative_to(root)) for path in root.rglob("*.py") if "pg_advisory" in path.read_text()]
    assert taking == ["store/locks.py"]
    numbers = re.findall(r"^    [A-Z]+ = (\w+)$", (root / "store/locks.py").read_text(), re.MULTILINE)
    assert len(numbers) == len(Lock) == len({int(number, 0) for number in numbers}) >= 3


def test_no_lock_keeps_another_waiting(postgres: str) -> None:
    made = create_engine(migrated_postgres(postgres, "edgeloop_locks"))
    for held in Lock:
        with made.begin() as one, made.begin() as other:
            hold_lock(one, held)
            other.execute(text("SET LOCAL lock_timeout = '50ms'"))
            for lock in Lock:
                if lock is not held:
                    hold_lock(other, lock)
    made.dispose()


def beside(engine: Engine, *statements: str, migration: Callable[[], None]) -> None:
    """An old hub's ingest has written the first tables when a migration begins, and goes on with the others."""
    first, *others = statements
    other = Meanwhile(engine)
    try:
        with Session(engine) as ingest, ingest.begin():
            ingest.connection().execute(text(first))
            migrating = other.call(migration)
            assert not migrating.done(), "it waits for the table"
            for statement in others:
                ingest.connection().execute(text(statement))
            windows.entering(ingest)
        migrating.result()
    finally:
        other.close()


def test_a_migration_beside_a_hub_that_writes_waits_for_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "TRIES", 1)
    monkeypatch.setattr(migrate, "WAIT_S", 60.0)
    in_order = [f"UPDATE {table} SET id = id" for table in ("device",)]
    in_order += [f"UPDATE {table} SET device_id = device_id" for table in ("devicemodel", "pairevidence", "measured")]
    beside(engine, *in_order, migration=lambda: migrate.upgrade(engine))
    assert not migrate.behind(engine)


def test_a_migration_that_meets_a_deadlock_begins_again_as_a_whole(engine: Engine) -> None:
    """This writer comes the other way round: one of the two is refused, and it is tried again until it works."""
    migrate_now = Meanwhile(engine)
    try:
        with Session(engine) as ingest, ingest.begin():
            ingest.connection().execute(text("SET LOCAL deadlock_timeout = '1min'"))  # the migration finds it first
            ingest.connection().execute(text("UPDATE measured SET device_id = device_id"))
            migrating = migrate_now.call(migrate.upgrade, engine)
            ingest.connection().execute(text("UPDATE device SET id = id"))
        migrating.result()
    finally:
        migrate_now.close()
    assert not migrate.behind(engine)


def test_a_migration_whose_tables_are_never_free_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "WAIT_S", 0.05)
    monkeypatch.setattr(migrate, "TRIES", 2)
    with Session(engine) as hangs, hangs.begin():
        hangs.connection().execute(text("UPDATE device SET id = id"))
        with pytest.raises(ConflictError, match="in use"):
            migrate.upgrade(engine)
    assert migrate.behind(engine)
    migrate.upgrade(engine)

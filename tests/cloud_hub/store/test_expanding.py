"""A hub of the release before goes on beside a newer one: migrations only add what it need not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from cloud_hub.errors import InvalidError
from cloud_hub.opening.bootstrap import check_database, open_database
from cloud_hub.store.engine import make_engine
from cloud_hub.store.migrate import upgrade
from tests.support.hub import make_hub

BESIDE = "0027"  # the newest migration of the oldest hubs that may run beside this one

Shape = dict[str, dict[str, Any]]


def shape(engine: Engine) -> Shape:
    """Of each table its columns, what may be there once only, and its other rules."""
    seen, found = inspect(engine), {}
    for table in seen.get_table_names():
        columns = {column["name"]: column for column in seen.get_columns(table)}
        once = {tuple(index["column_names"]) for index in seen.get_indexes(table) if index["unique"]}
        once |= {tuple(rule["column_names"]) for rule in seen.get_unique_constraints(table)}
        bound = {str(rule) for rule in [*seen.get_check_constraints(table), *seen.get_foreign_keys(table)]}
        found[table] = {"columns": columns, "once": once, "bound": bound}
    return found


def breaks(before: Shape, after: Shape) -> list[str]:
    """The tables and columns that a hub of the tables `before` cannot read or write any more."""
    said = [f"table {table} is gone" for table in before.keys() - after.keys()]
    for table in before.keys() & after.keys():
        old, new = before[table]["columns"], after[table]["columns"]
        said += [f"{table}.{name} is gone" for name in old.keys() - new.keys()]
        for name in old.keys() & new.keys():
            if str(old[name]["type"]) != str(new[name]["type"]):
                said.append(f"{table}.{name} is of another type")
            if old[name]["nullable"] and not new[name]["nullable"]:
                said.append(f"{table}.{name} must not be empty any more")
        for name in new.keys() - old.keys():
            if not new[name]["nullable"] and new[name]["default"] is None:
                said.append(f"{table}.{name} has to be given")
        for kind in ("once", "bound"):
            said += [f"{table}: {rule} is a new rule" for rule in after[table][kind] - before[table][kind]]
    return sorted(said)


def test_what_a_hub_of_the_release_before_reads_and_writes_is_still_there(database_url: str) -> None:
    engine = make_engine(database_url)
    upgrade(engine, BESIDE)
    before = shape(engine)
    upgrade(engine)
    assert breaks(before, shape(engine)) == [], "only add: docs/how-to/run-two-hubs.md says how to take away"
    engine.dispose()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("ALTER TABLE one RENAME TO two", "table one is gone"),
        ("ALTER TABLE one RENAME COLUMN a TO b", "one.a is gone"),
        ("ALTER TABLE one ADD COLUMN b INTEGER NOT NULL DEFAULT 0", ""),
        ("ALTER TABLE one ADD COLUMN b INTEGER", ""),
        ("CREATE UNIQUE INDEX u ON one (a)", "one: ('a',) is a new rule"),
        ("CREATE INDEX u ON one (a)", ""),
        ("DROP TABLE one; CREATE TABLE one (a TEXT)", "one.a is of another type"),
        ("DROP TABLE one; CREATE TABLE one (a INTEGER NOT NULL)", "one.a must not be empty any more"),
        ("DROP TABLE one; CREATE TABLE one (a INTEGER, b INTEGER NOT NULL)", "one.b has to be given"),
        ("DROP TABLE one; CREATE TABLE one (a INTEGER CHECK (a > 0))", "is a new rule"),
    ],
)
def test_a_change_that_an_older_hub_would_stumble_over_is_named(tmp_path: Path, change: str, says: str) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'one.db'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE one (a INTEGER)"))
    before = shape(engine)
    with engine.begin() as connection:
        for statement in change.split("; "):
            connection.execute(text(statement))
    found = breaks(before, shape(engine))
    engine.dispose()
    assert says in "; ".join(found) and bool(found) == bool(says), found


def test_a_hub_and_a_worker_of_an_older_version_refuse_to_start_and_say_why(hub_database: str, tmp_path: Path) -> None:
    hub = make_hub(tmp_path / "hub", database=hub_database).hub
    with hub.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InvalidError, match=r"of another version.*9999") as refused:
        open_database(hub.config)
    assert "or a newer one" in refused.value.hint
    with pytest.raises(InvalidError, match="knows no migration 9999") as refused:
        check_database(hub.config)
    assert "that the hubs run" in refused.value.hint
    hub.engine.dispose()

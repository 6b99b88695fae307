"""Many rows by one statement, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import select

from cloud_hub.store import bulk
from cloud_hub.store.tables import PairEvidence, PairInput, Setting, SpoolCursor
from fleet.protocol.bounds import LARGEST
from tests.support.hub import HubFixture, make_hub
from tests.support.statements import counted

CURSOR = ("device_id", "spool", "committed", "lost", "receipted", "used_at")


@pytest.fixture
def both(tmp_path: Path, hub_database: str) -> Iterator[HubFixture]:
    """A hub on each database."""
    made = make_hub(tmp_path, database=hub_database)
    yield made
    made.hub.engine.dispose()


def test_rows_are_added_by_one_statement_with_every_value_a_column_takes(both: HubFixture) -> None:
    keys = [0, 1, -1, 300, 70_000, LARGEST, -LARGEST - 1]
    with both.hub.session() as session:
        session.connection()
        with counted(both.hub.engine) as found:
            bulk.insert(session, PairInput, ("rollout", "attempt", "key"), [('r"%s\\', 1, key) for key in keys])
            bulk.insert(session, PairInput, ("rollout", "attempt", "key"), [])
        assert found.statements == 1
        among = select(PairInput.key).where(bulk.one_of(session, PairInput.key, [*keys[2:], 5]))
        assert sorted(session.exec(among)) == sorted(keys[2:])
        assert session.exec(select(PairInput.key).where(bulk.one_of(session, PairInput.key, []))).all() == []
        assert {row.rollout for row in session.exec(select(PairInput))} == {'r"%s\\'}


def test_what_is_there_is_written_over_but_for_what_only_new_rows_get(both: HubFixture) -> None:
    with both.hub.session() as session:
        bulk.upsert(session, SpoolCursor, CURSOR, [("d", "s", 1, 0, 7, 1.0)], only_new=("receipted",))
        rows = [("d", "s", 2, 0, 8, 2.5), ("d", "t", 1, 0, 9, 2.5)]
        bulk.upsert(session, SpoolCursor, CURSOR, rows, only_new=("receipted",))
    with both.hub.reading() as session:
        found = session.exec(select(SpoolCursor).order_by(SpoolCursor.spool)).all()
    assert [(row.spool, row.committed, row.receipted, row.used_at) for row in found] == [
        ("s", 2, 7, 2.5),
        ("t", 1, 9, 2.5),
    ]


def test_a_row_that_has_more_is_left_as_it_is(both: HubFixture) -> None:
    with both.hub.session() as session:
        for used_at, committed in ((1.0, 5), (2.0, 4), (3.0, 5), (4.0, 1)):
            bulk.upsert(session, SpoolCursor, CURSOR, [("d", "s", committed, 0, 0, used_at)], most="committed")
    with both.hub.reading() as session:
        assert [(row.committed, row.used_at) for row in session.exec(select(SpoolCursor))] == [(5, 3.0)]


def test_columns_of_rows_are_written_and_no_others(both: HubFixture) -> None:
    with both.hub.session() as session:
        session.add_all([Setting(key=f"k{n}", value="before") for n in range(3)])
        session.flush()
        bulk.update(session, Setting, ("value", "key"), [("after", "k1"), ("later", "k2"), ("x", "gone")])
    with both.hub.reading() as session:
        found = session.connection().exec_driver_sql("SELECT key, value FROM setting WHERE key LIKE 'k_'").all()
    assert sorted(map(tuple, found)) == [("k0", "before"), ("k1", "after"), ("k2", "later")]


def test_a_column_without_any_value_is_null_in_each_row(both: HubFixture) -> None:
    empty = PairEvidence(rollout="r", attempt=1, device_id="d").model_dump()
    rows = [tuple({**empty, "device_id": name}.values()) for name in ("a", "b")]
    with both.hub.session() as session:
        bulk.insert(session, PairEvidence, tuple(empty), rows)
    with both.hub.reading() as session:
        assert [row.silent_at for row in session.exec(select(PairEvidence))] == [None, None]


@pytest.mark.parametrize("key", [1, LARGEST + 1], ids=["there is one already", "no column holds it"])
def test_one_row_that_is_refused_refuses_the_statement(both: HubFixture, key: int) -> None:
    columns = ("rollout", "attempt", "key")
    with both.hub.session() as session:
        bulk.insert(session, PairInput, columns, [("r", 1, 1)])
    with pytest.raises(DBAPIError) as raised, both.hub.session() as session:
        bulk.insert(session, PairInput, columns, [("r", 1, 2), ("r", 1, key)])
    assert isinstance(raised.value, IntegrityError) == (key == 1)
    with both.hub.reading() as session:
        assert session.exec(select(PairInput.key)).all() == [1]

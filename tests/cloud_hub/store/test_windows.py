"""A reader that goes by the numbers of windows passes none that is committed late."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, func, select

from cloud_hub.store import windows
from cloud_hub.store.tables import WindowRow
from tests.support.hub import HubFixture, make_hub
from tests.support.races import Meanwhile


@pytest.fixture
def both(tmp_path: Path, hub_database: str) -> Iterator[HubFixture]:
    """A hub on each database."""
    made = make_hub(tmp_path, database=hub_database)
    yield made
    made.hub.engine.dispose()


def write(session: Session, spool: str) -> int:
    """Write a window as ingest does; returns its number."""
    windows.entering(session)
    row = WindowRow(device_id="d", spool=spool, seq=1, model="m", release=1, started_at=0.0, ended_at=1.0)
    session.add(row)
    session.flush()
    assert row.id is not None
    return row.id


def newest(hub: HubFixture) -> int:
    """The largest number that is seen now."""
    with hub.hub.reading() as session:
        return session.exec(select(func.max(WindowRow.id))).one() or 0


def test_nothing_is_settled_where_nothing_came(both: HubFixture) -> None:
    assert windows.settled(both.hub.engine) == 0


def write_now(hub: HubFixture, spool: str) -> int:
    """Write a window in a transaction of its own; returns its number."""
    with hub.hub.session() as session:
        return write(session, spool)


def test_a_reader_passes_no_window_that_has_its_number_and_is_not_committed(both: HubFixture) -> None:
    engine, early = both.hub.engine, write_now(both, "early")
    other = Meanwhile(engine)
    try:
        with both.hub.session() as session:
            late = write(session, "late")
            beside = other.call(write_now, both, "beside")
            if engine.dialect.name == "postgresql":
                assert newest(both) == beside.result(0) > late > early, "a reader by numbers would pass the late one"
                settled = other.call(windows.settled, engine)
                assert not settled.done()
            else:
                assert not beside.done(), "whoever has a number is the only writer"
                assert windows.settled(engine) == newest(both) == early < late
        assert beside.result() > late
        if engine.dialect.name == "postgresql":
            assert settled.result() == beside.result()
        assert windows.settled(engine) == newest(both) == beside.result()
    finally:
        other.close()


def test_a_writer_that_hangs_costs_the_reader_one_look_and_no_other_writer(
    both: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if both.hub.engine.dialect.name == "sqlite":
        return  # there the writer that hangs holds the only lock
    monkeypatch.setattr(windows, "PATIENCE", "50ms")
    with both.hub.session() as hangs:
        write(hangs, "hangs")
        with pytest.raises(OperationalError):
            windows.settled(both.hub.engine)
        with both.hub.session() as session:
            write(session, "another")

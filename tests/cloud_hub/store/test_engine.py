"""SQLite waits for writers without failing half way, and readers wait for nobody."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from cloud_hub.store.engine import make_engine
from cloud_hub.store.migrate import upgrade
from cloud_hub.store.tables import Setting


def test_concurrent_increments_lose_nothing(database_url: str) -> None:
    """Read-then-write in two threads; PostgreSQL takes the publishing lock, SQLite its own."""
    from cloud_hub.store.engine import lock_publishing

    engine = make_engine(database_url)
    upgrade(engine)
    with Session(engine) as session, session.begin():
        session.add(Setting(key="n", value="0"))

    def count() -> None:
        for _ in range(25):
            with Session(engine) as session, session.begin():
                lock_publishing(session)
                row = session.get(Setting, "n")
                assert row is not None
                row.value = str(int(row.value) + 1)

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Session(engine) as session:
        row = session.get(Setting, "n")
        assert row is not None and row.value == "75"
    engine.dispose()


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}")
    upgrade(engine)
    with Session(engine) as writer, writer.begin():
        writer.add(Setting(key="a", value="1"))
        writer.flush()
        with Session(engine.execution_options(edgeloop_read=True)) as reader:
            assert reader.get(Setting, "a") is None
    with Session(engine.execution_options(edgeloop_read=True)) as reader:
        assert reader.get(Setting, "a") is not None
    engine.dispose()


def test_writers_of_one_process_wait_in_line_and_not_by_looking_again(tmp_path: Path) -> None:
    """SQLite's own way sleeps up to a tenth of a second between two looks, and whoever just comes may be first."""
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}")
    upgrade(engine)
    other = sqlite3.connect(tmp_path / "x.db", timeout=0.0, isolation_level=None)
    waits, tried = threading.Event(), threading.Event()
    event.listen(engine, "before_cursor_execute", lambda *_: waits.set())
    event.listen(engine, "after_cursor_execute", lambda *_: tried.set())

    def write() -> None:
        with Session(engine) as session, session.begin():
            session.merge(Setting(key="b", value="1"))

    with Session(engine) as writer, writer.begin():
        writer.merge(Setting(key="a", value="1"))
        writer.flush()
        waits.clear(), tried.clear()
        thread = threading.Thread(target=write)
        thread.start()
        assert waits.wait(60) and not tried.wait(0.05)  # it asks SQLite for nothing before it is its turn
    thread.join()
    assert other.execute("SELECT count(*) FROM setting WHERE key IN ('a', 'b')").fetchone() == (2,)
    other.close()
    engine.dispose()


def test_the_turn_goes_on_after_a_transaction_that_cannot_begin_or_is_undone(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}")
    upgrade(engine)
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")  # another process
    with pytest.raises(OperationalError, match="locked"), engine.begin():
        pass
    other.execute("COMMIT")
    with pytest.raises(KeyError), Session(engine) as session, session.begin():
        session.merge(Setting(key="a", value="1"))
        raise KeyError
    with Session(engine) as session, session.begin():
        session.merge(Setting(key="b", value="1"))
    assert [row[0] for row in other.execute("SELECT key FROM setting WHERE key IN ('a', 'b')")] == ["b"]
    other.close()
    engine.dispose()

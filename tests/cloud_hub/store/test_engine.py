"""SQLite waits for writers without failing half way, and readers wait for nobody."""

from __future__ import annotations

import threading
from pathlib import Path

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

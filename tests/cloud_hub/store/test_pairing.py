"""The row of a device's evidence, which ingest and the rollout engine may both make at the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlmodel import select

from cloud_hub.store.pairing import row_of
from cloud_hub.store.tables import PairEvidence
from tests.support.hub import HubFixture, make_hub


def test_it_is_made_once_and_found_then(hub: HubFixture) -> None:
    for both in (3, 4):
        with hub.hub.session() as session:
            row = row_of(session, "r", 1, "d")
            row.both += both
            session.add(row)
    with hub.hub.reading() as session:
        (row,) = session.exec(select(PairEvidence))
        assert (row.both, row.answered, row.silent_at, row.reason) == (7, 0, None, "")


@pytest.fixture
def both(tmp_path: Path, hub_database: str) -> Iterator[HubFixture]:
    """A hub on each database."""
    made = make_hub(tmp_path, database=hub_database)
    yield made
    made.hub.engine.dispose()


def test_two_that_make_it_at_once_keep_what_each_writes(both: HubFixture) -> None:
    start = Barrier(2)

    def write(name: str, value: object) -> None:
        start.wait()
        for attempt in range(10):
            with both.hub.session() as session:
                row = row_of(session, "r", attempt, "d")
                setattr(row, name, value)
                session.add(row)

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(write, "answered", 5), threads.submit(write, "reason", "crash-loop")]:
            done.result()
    with both.hub.reading() as session:
        rows = session.exec(select(PairEvidence)).all()
    assert [(row.answered, row.reason) for row in rows] == [(5, "crash-loop")] * 10

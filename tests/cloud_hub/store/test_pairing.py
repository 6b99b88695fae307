"""A device's evidence, which ingest adds to and the rollout engine marks, at the same moment if need be."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import update
from sqlmodel import Session, select

from cloud_hub.store.engine import lock_name
from cloud_hub.store.pairing import LOCK, Evidence, make_rows
from cloud_hub.store.tables import PairEvidence
from fleet.protocol.bounds import LARGEST
from tests.support.hub import HubFixture, make_hub


@pytest.fixture
def both(tmp_path: Path, hub_database: str) -> Iterator[HubFixture]:
    """A hub on each database."""
    made = make_hub(tmp_path, database=hub_database)
    yield made
    made.hub.engine.dispose()


def add(session: Session, attempt: int, **counts: int) -> None:
    """Add to a device's evidence as ingest does."""
    place = ("r", attempt, "d")
    lock_name(session, LOCK)
    evidence = Evidence(session, {place}, [])
    evidence.add(place, counts)
    evidence.keep(session)


def mark(session: Session, attempt: int) -> None:
    """Note a device's failure as the engine does."""
    lock_name(session, LOCK)
    make_rows(session, "r", attempt, ["d"])
    of_it = (PairEvidence.rollout == "r", PairEvidence.attempt == attempt)
    session.connection().execute(update(PairEvidence).where(*of_it).values(reason="crash-loop", silent_at=7.0))


def test_it_is_made_once_and_added_to_then(both: HubFixture) -> None:
    for _ in range(2):
        with both.hub.session() as session:
            add(session, 1, both=3, answered=LARGEST - 1)
    with both.hub.reading() as session:
        (row,) = session.exec(select(PairEvidence))
        assert (row.both, row.answered, row.silent_at, row.reason) == (6, LARGEST, None, "")


@pytest.mark.parametrize("first", [add, mark])
def test_each_leaves_what_the_other_has_written(both: HubFixture, first) -> None:
    steps = {add: lambda session: add(session, 1, both=5), mark: lambda session: mark(session, 1)}
    for step in (steps.pop(first), *steps.values()):
        with both.hub.session() as session:
            step(session)
    with both.hub.reading() as session:
        (row,) = session.exec(select(PairEvidence))
        assert (row.both, row.silent_at, row.reason) == (5, 7.0, "crash-loop")


def test_two_that_make_it_at_once_keep_what_each_writes(both: HubFixture) -> None:
    start = Barrier(2)

    def write(step, **counts: int) -> None:
        start.wait()
        for attempt in range(10):
            with both.hub.session() as session:
                step(session, attempt, **counts)

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(write, add, answered=5), threads.submit(write, mark)]:
            done.result()
    with both.hub.reading() as session:
        rows = session.exec(select(PairEvidence)).all()
    assert [(row.answered, row.reason) for row in rows] == [(5, "crash-loop")] * 10

"""No statement of a batch reads a whole table, however much is in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlmodel import Session, SQLModel

from cloud_hub.ingest.ingestor import Ingestor
from cloud_hub.store import senders
from cloud_hub.store.tables import DeviceEvent
from tests.cloud_hub.ingest.test_bad_messages import fleet as fleet  # a hub with two devices, on each database
from tests.cloud_hub.ingest.test_bad_messages import good, rows
from tests.support.hub import HubFixture, make_hub
from tests.support.traffic import BUILD, Traffic, prepare

STATEMENT = re.compile(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b")


@contextmanager
def plans(engine: Engine) -> Iterator[dict[str, list[str]]]:
    """SQLite's plan for each statement in the block."""
    found: dict[str, list[str]] = {}

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if STATEMENT.match(statement) and statement not in found:
            values = parameters[0] if many else parameters
            plan = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
            found[statement] = [row[3] for row in plan]

    event.listen(engine, "before_cursor_execute", explain)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", explain)


def scans(found: dict[str, list[str]]) -> list[tuple[str, str]]:
    """The statements that read a stored table from its first row to its last."""
    tables = {f"SCAN {name}" for name in SQLModel.metadata.tables}
    return [(step, text[:200]) for text, plan in found.items() for step in plan if " ".join(step.split()[:2]) in tables]


@pytest.mark.parametrize("kind", [*BUILD, "status", "malformed"])
def test_no_statement_of_a_batch_reads_a_whole_table(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    hub = make_hub(tmp_path)
    names = prepare(hub, 3)
    ingestor = Ingestor(hub.hub)
    with plans(hub.hub.engine) as found:
        for spool in range(senders.SPOOLS + 2):  # so that cursors are forgotten, too
            ingestor.take(Traffic(kind, names, spool=f"{kind}-{spool}").batch(6))
    assert len(found) > 3 and scans(found) == []
    hub.hub.engine.dispose()


def test_where_spools_end_is_told_on_each_database(fleet: HubFixture) -> None:
    Ingestor(fleet.hub).take([good(seq, "cam-1", spool=spool) for spool in ("a", "b") for seq in (1, 2)])
    asked = {("cam-1", "a"), ("cam-1", "c"), ("cam-2", "a")}
    with Session(fleet.hub.engine) as session:
        assert senders.ends(session, asked) == {("cam-1", "a"): 2, ("cam-1", "c"): 0, ("cam-2", "a"): 0}
    assert len(rows(fleet, DeviceEvent)) == 4

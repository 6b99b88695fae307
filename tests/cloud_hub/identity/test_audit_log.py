"""The audit log is read from a time on without reading what was before, and misses nothing for a clock's sake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event, insert
from sqlmodel import Session

from cloud_hub.identity import audit_log
from cloud_hub.identity.audit_log import list_records
from cloud_hub.store.tables import AuditEntry
from tests.support.hub import HubFixture, make_hub


@pytest.fixture
def both(tmp_path: Path, hub_database: str) -> Iterator[HubFixture]:
    """A hub on each database."""
    made = make_hub(tmp_path, database=hub_database)
    yield made
    made.hub.engine.dispose()


def write(session: Session, *times: float) -> None:
    """Records of these times in their order, and no others, numbered from 1."""
    session.connection().execute(delete(AuditEntry))
    rows = [
        {"id": number, "at": at, "actor": "test", "action": "did", "subject": f"s-{number % 2}", "detail": {}}
        for number, at in enumerate(times, 1)
    ]
    session.connection().execute(insert(AuditEntry), rows)


@pytest.mark.parametrize("few", [1, 100])
def test_what_a_clock_wrote_that_was_wrong_is_found(
    both: HubFixture, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(audit_log, "FEW", few)
    with both.hub.session() as session:
        write(session, 1.0, 90.0, 2.0, 3.0, 50.0, 40.0, 60.0, 4.0)  # it ran ahead, and was set back, twice

    def ids(**asked: Any) -> list[int]:
        return [
            record.id for record in list_records(both.hub, **{"after": 0, "limit": 9, "since": 45.0, **asked}).items
        ]

    assert ids(newest=True) == [7, 5, 2] and ids() == [2, 5, 7]
    assert ids(newest=True, after=5) == [2] and ids(newest=True, limit=2) == [7, 5]
    assert ids(newest=True, subject="s-1") == [7, 5] and ids(since=99.0, newest=True) == []
    assert ids(since=0.0) == [1, 2, 3, 4, 5, 6, 7, 8]


def steps(hub: HubFixture, before: int, *, newest: bool, since: float) -> int:
    """How many steps of its machine SQLite takes to list what came since, after so many earlier records."""
    with hub.hub.session() as session:
        write(session, *(float(number) for number in range(before)), 1e6, 1e6 + 1)
    taken = [0]

    def count() -> int:
        taken[0] += 1
        return 0

    def watch(connection: Any, *more: Any) -> None:
        connection.connection.dbapi_connection.set_progress_handler(count, 1)

    event.listen(hub.hub.engine, "before_cursor_execute", watch)
    try:
        page = list_records(hub.hub, after=0, limit=50, newest=newest, since=since)
    finally:
        event.remove(hub.hub.engine, "before_cursor_execute", watch)
    assert len(page.items) == sum(at >= since for at in (1e6, 1e6 + 1))
    return taken[0]


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize("since", [1e6, 2e6])
def test_what_was_before_is_not_read(hub: HubFixture, newest: bool, since: float) -> None:
    few, many = (steps(hub, before, newest=newest, since=since) for before in (20, 2000))
    assert few <= many < 2 * few

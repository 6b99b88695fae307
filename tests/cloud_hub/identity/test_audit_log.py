"""The audit log is read from a time on without reading what was before, and misses nothing for a clock's sake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event, insert, update
from sqlmodel import Session

from cloud_hub.identity import audit_log
from cloud_hub.identity.audit_log import list_records
from cloud_hub.store.tables import AuditEntry
from fleet.api.audit import AuditFilter
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
        {
            "id": number,
            "at": at,
            "actor": "test",
            "action": f"did-{number % 3}",
            "subject": f"s-{number % 2}",
            "detail": {},
        }
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

    def ids(*, newest: bool = False, after: int = 0, limit: int = 9, **wanted: Any) -> list[int]:
        wanted = {"since": 45.0, **wanted}
        page = list_records(both.hub, AuditFilter(**wanted), newest=newest, after=after, limit=limit)
        return [record.id for record in page.items]

    assert ids(newest=True) == [7, 5, 2] and ids() == [2, 5, 7]
    assert ids(newest=True, after=5) == [2] and ids(newest=True, limit=2) == [7, 5]
    assert ids(newest=True, subject="s-1") == [7, 5] and ids(since=99.0, newest=True) == []
    assert ids(since=0.0) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert ids(until=60.0) == [5] and ids(since=0.0, until=4.0, newest=True) == [4, 3, 1]
    assert ids(since=0.0, until=4.0, newest=True, limit=2) == [4, 3] and ids(since=0.0, until=1.0) == []
    assert ids(action="did-2") == [2, 5] and ids(since=0.0, action="did-0", subject="s-1") == [3]
    assert ids(actor="test", action="did-1", newest=True) == [7] and ids(actor="tes") == []


def steps(hub: HubFixture, before: int, wanted: AuditFilter, *, newest: bool, after: int = 0) -> int:
    """The steps of its machine that SQLite takes to list the wanted records, with so many records around it."""
    with hub.hub.session() as session:
        write(session, *(float(number) for number in range(before)), 1e6, 1e6 + 1, *(2e6 + n for n in range(after)))
        session.connection().execute(
            update(AuditEntry)
            .where(AuditEntry.at >= 1e6, AuditEntry.at < 2e6)
            .values(actor="a", action="b", subject="c")
        )
    taken = [0]

    def count() -> int:
        taken[0] += 1
        return 0

    def watch(connection: Any, *more: Any) -> None:
        connection.connection.dbapi_connection.set_progress_handler(count, 1)

    event.listen(hub.hub.engine, "before_cursor_execute", watch)
    try:
        page = list_records(hub.hub, wanted, limit=50, newest=newest)
    finally:
        event.remove(hub.hub.engine, "before_cursor_execute", watch)
    assert len(page.items) == (0 if wanted.since == 3e6 else 2)
    return taken[0]


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize(
    "wanted",
    [
        {"since": 1e6, "until": 2e6},
        {"since": 3e6},
        {"actor": "a"},
        {"action": "b"},
        {"subject": "c"},
        {"action": "b", "since": 1.0},
        {"actor": "a", "until": 2e6},
        {"actor": "a", "action": "b", "subject": "c"},
    ],
    ids=str,
)
def test_what_is_around_it_is_not_read(
    hub: HubFixture, monkeypatch: pytest.MonkeyPatch, newest: bool, wanted: dict[str, Any]
) -> None:
    monkeypatch.setattr(audit_log, "FEW", 10)
    few, many = (steps(hub, size, AuditFilter(**wanted), newest=newest, after=size) for size in (20, 1000))
    assert few <= many < 2 * few


@pytest.mark.parametrize("newest", [True, False])
def test_what_was_before_is_not_read(hub: HubFixture, newest: bool) -> None:
    few, many = (steps(hub, before, AuditFilter(since=1e6), newest=newest) for before in (20, 2000))
    assert few <= many < 2 * few

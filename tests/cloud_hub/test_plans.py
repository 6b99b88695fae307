"""Frequent queries find their rows by an index, whatever the fleet's size and the hub's age."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlmodel import col, func, select

from cloud_hub.dashboard.views import lineage
from cloud_hub.devices import finding
from cloud_hub.devices.finding import Wanted
from cloud_hub.identity.audit_log import list_records
from cloud_hub.ingest.slowing import TOO_MANY
from cloud_hub.rollouts import labelled
from cloud_hub.rollouts.labelled import LabelPosition
from cloud_hub.store.tables import AuditEntry, Device, DeviceModel, SampleRow
from fleet.api.audit import AuditFilter
from fleet.protocol.messages import IN_USE_TWICE
from tests.support import large_fleet
from tests.support.hub import HubFixture, make_hub

DEVICES, SAMPLES, RECORDS = 2000, 2000, 12_000
ILL_INDEXES = (
    "ix_device_set_aside",
    "ix_device_cloned_at",
    "ix_device_slowed_at",
    "ix_device_problem",
    "ix_devicemodel_empty",
    "ix_devicemodel_reason",
)
TABLES = ("device", "devicemodel", "sample", "auditentry")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubFixture]:
    """Two thousand devices of which few are ill, samples of which few have labels, and records of many days."""
    hub = make_hub(tmp_path_factory.mktemp("plans"), **database(request))
    large_fleet.releases(hub)
    large_fleet.devices(hub, DEVICES)
    large_fleet.write(hub, SampleRow, (sample(number) for number in range(SAMPLES)))
    large_fleet.write(hub, AuditEntry, (record(number) for number in range(RECORDS)))
    with hub.hub.session() as session:
        for number, fields in enumerate(ILL):
            row = session.get_one(Device, large_fleet.name_of(number))
            for name, value in fields(hub.clock()).items():
                setattr(row, name, value)
        empty = session.get_one(DeviceModel, (large_fleet.name_of(9), large_fleet.MODEL))
        empty.active, empty.state = None, "idle"
    if hub.hub.engine.dialect.name == "postgresql":  # it does so by itself, in time; SQLite plans without
        with hub.hub.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    yield hub
    hub.hub.engine.dispose()


def database(request: pytest.FixtureRequest) -> dict[str, str]:
    from tests.support.databases import migrated_postgres

    if request.param == "sqlite":
        return {}
    return {"database": migrated_postgres(request.getfixturevalue("postgres"), "edgeloop_plans")}


ILL: tuple[Callable[[float], dict[str, Any]], ...] = (
    lambda now: {"set_aside": 3},
    lambda now: {"sessions": {"cloned_at": now}},
    lambda now: {"sessions": {"slowed_at": now, "names": ["x"]}},
    lambda now: {"problem": "disk-full"},
    lambda now: {"problem": IN_USE_TWICE},
    lambda now: {"certificate_expires_at": now + 60},
    lambda now: {"set_aside": 3, "revoked_at": now},
    lambda now: {"sessions": {"cloned_at": now - 86_400}},
)


def sample(number: int) -> dict[str, Any]:
    labels = {"label": 1, "labelled_at": 1e6 + number} if number % 50 == 0 else {"label": None, "labelled_at": None}
    return SampleRow(
        id=f"s-{number:05}",
        model=large_fleet.MODEL,
        device_id=large_fleet.name_of(number),
        release=1 + number % 2,
        variant="v",
        reason="random",
        at=0.0,
        received_at=1e6 + number,
        confidence=0.9,
        prediction=1,
        path="-",
        **labels,
    ).model_dump()


def record(number: int) -> dict[str, Any]:
    fields = AuditEntry(at=1e6 + number, actor="somebody", action="x", subject="y").model_dump()
    return {name: value for name, value in fields.items() if name != "id"}


@contextmanager
def plans(engine: Engine) -> Iterator[list[str]]:
    """The steps that the database would take for what is sent within the block.

    PostgreSQL weighs indexes against reading a small table as a whole; it is asked for what it does in a large one.
    """
    found: list[str] = []
    explain = "EXPLAIN " if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "

    def before(_connection: Any, cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            other = cursor.connection.cursor()
            if engine.dialect.name == "postgresql":
                other.execute("SET LOCAL enable_seqscan = off")
            other.execute(explain + statement, parameters)
            found.extend(str(row[-1]) for row in other.fetchall())
            other.close()

    event.listen(engine, "before_cursor_execute", before)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", before)


def walks(steps: list[str]) -> list[str]:
    """The steps that read a table from its first row to its last, or an index without saying of which part."""
    starts = tuple(start for name in TABLES for start in (f"SCAN {name}", f"Seq Scan on {name} "))
    small = ("ix_device_certificate", *ILL_INDEXES)
    found = [step for step in steps if step.strip(" ->").startswith(starts)]
    return [step for step in found if not any(name in step for name in small)]


def test_ill_devices_are_found_among_themselves(fleet: HubFixture) -> None:
    with fleet.hub.reading() as session, plans(fleet.hub.engine) as steps:
        found = finding.reasons(session, fleet.clock())
    assert walks(steps) == [] and [name for name in ILL_INDEXES if name not in str(steps)] == []
    assert {one.reason: one.devices for one in found} == {
        IN_USE_TWICE: 2,
        TOO_MANY: 1,
        "disk-full": 1,
        "messages-set-aside": 1,
        "certificate-ends": 1,
        "no-release": 1,
    }


@pytest.mark.parametrize("reason", [IN_USE_TWICE, "messages-set-aside", "no-release", "disk-full"])
def test_those_of_a_reason_are_the_ones_that_are_counted(fleet: HubFixture, reason: str) -> None:
    with fleet.hub.reading() as session:
        (counted,) = [one for one in finding.reasons(session, fleet.clock()) if one.reason == reason]
    found = finding.find_devices(fleet.hub, Wanted(reason=reason), "", 50)
    assert found.count == counted.devices and found.items[0].id == counted.example


def test_a_look_at_labels_reads_those_that_came_since(fleet: HubFixture) -> None:
    with fleet.hub.reading() as session, plans(fleet.hub.engine) as steps:
        found = labelled.labels_after(session, large_fleet.MODEL, LabelPosition(1e6 + 1000, "s-01000"), 1e6)
    assert [row.id for row in found] == [f"s-{number:05}" for number in range(1050, SAMPLES, 50)]
    assert any("ix_sample_" in step and "label" in step for step in steps) and walks(steps) == []
    if fleet.hub.engine.dialect.name == "sqlite":
        assert any("ix_sample_drawn_label" in step for step in steps)


def test_the_time_of_the_last_label_is_at_the_end_of_an_index(fleet: HubFixture) -> None:
    last = select(func.max(SampleRow.labelled_at)).where(col(SampleRow.labelled_at).is_not(None))
    with fleet.hub.reading() as session, plans(fleet.hub.engine) as steps:
        assert session.exec(last).one() == 1e6 + SAMPLES - 50
    assert any("ix_sample_labelled_at" in step for step in steps)


def test_the_records_of_an_old_day_are_found_by_their_time(fleet: HubFixture) -> None:
    day = AuditFilter(since=1e6 + 100, until=1e6 + 200)
    for newest in (False, True):
        with plans(fleet.hub.engine) as steps:
            page = list_records(fleet.hub, day, limit=3, newest=newest)
        assert any("ix_auditentry_at" in step for step in steps) and walks(steps) == []
        ats = [one.at - 1e6 for one in page.items]
        assert ats == ([199, 198, 197] if newest else [100, 101, 102])
        more = list_records(fleet.hub, day, after=page.next or 0, limit=3, newest=newest)
        assert [one.at - 1e6 for one in more.items] == ([196, 195, 194] if newest else [103, 104, 105])


def test_whom_releases_serve_is_read_of_the_model_s_own_reports(fleet: HubFixture) -> None:
    with fleet.hub.reading() as session, plans(fleet.hub.engine) as steps:
        (first, second) = lineage.origins(session, large_fleet.MODEL)
    assert dict(first.serving) == {large_fleet.CHANNEL: DEVICES - 2} and second.serving == ()
    if fleet.hub.engine.dialect.name == "sqlite":  # PostgreSQL weighs it: here all devices serve the model
        assert walks(steps) == [] and any("COVERING INDEX ix_devicemodel_serving" in step for step in steps)

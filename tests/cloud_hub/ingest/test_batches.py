"""A batch costs the database about a dozen statements, of whatever its messages are and however many they are."""

from __future__ import annotations

import logging

import pytest
from sqlmodel import select

from cloud_hub.ingest.ingestor import Ingestor
from cloud_hub.ingest.reading import read_record
from cloud_hub.store.senders import SPOOLS
from cloud_hub.store.tables import Device, DeviceEvent, PairEvidence, PairInput, SetAside, SpoolCursor, WindowRow
from cloud_hub.store.types import document_text
from fleet.protocol.bounds import storable
from tests.cloud_hub.ingest.test_bad_messages import fleet as fleet  # a hub with two devices, on each database
from tests.cloud_hub.ingest.test_bad_messages import good, receipts, rows, up
from tests.support import bad_messages as bad
from tests.support.hub import HubFixture, make_hub
from tests.support.statements import counted
from tests.support.traffic import BUILD, KINDS, Traffic, prepare

MOST = 24  # statements of a batch


@pytest.fixture
def many(tmp_path, hub_database) -> HubFixture:
    """A hub with many devices, on each database."""
    made = make_hub(tmp_path, database=hub_database)
    yield made
    made.hub.engine.dispose()


def statements(hub: HubFixture, traffic: Traffic, count: int) -> int:
    batch, ingestor = traffic.batch(count), Ingestor(hub.hub)
    with counted(hub.hub.engine) as found:
        ingestor.take(batch)
    assert sum(ingestor.counts.values()) == count
    return found.statements


def test_a_batch_of_any_kind_costs_a_dozen_statements_however_long_it_is(many, caplog):
    logging.disable(logging.WARNING)
    names = prepare(many, 60)
    try:
        for kind in KINDS:
            each_its_own = Traffic(kind, names, spool=kind)  # a cursor, a device and a receipt for each message
            found = [statements(many, each_its_own, count) for count in (60, 60, 12, 60)]
            assert max(found) <= MOST and found[1] == found[3], (kind, found)
            assert found[1] <= found[2] + 1, "no statement for a device or a record"
            assert found[1] / 60 <= 2
    finally:
        logging.disable(logging.NOTSET)
    assert len(rows(many, SpoolCursor)) == 60 * (len(KINDS) - 1)
    assert len(rows(many, DeviceEvent)) == 192 * 4 and len(rows(many, WindowRow)) == 192 * 2


def test_a_batch_writes_what_its_messages_write_one_by_one(many, tmp_path):
    """The same records in one batch and alone, on two hubs: every row is the same."""
    other = make_hub(tmp_path / "other")
    for hub in (many, other):
        names = prepare(hub, 3)
    sent = [message for kind in BUILD for message in Traffic(kind, names, spool=kind).batch(12)]
    Ingestor(many.hub).take(sent)
    for message in sent:
        Ingestor(other.hub).take([message])
    for table in (DeviceEvent, WindowRow, PairEvidence, PairInput, SpoolCursor, Device):
        assert shown(many, table) == shown(other, table), table
    other.hub.engine.dispose()


def shown(hub: HubFixture, table: type) -> list[dict]:
    """All rows, without what says how often something was written."""
    without = {"id", "command_counter"} if table is not Device else {"command_counter"}
    found = [row.model_dump(exclude=without) for row in rows(hub, table)]
    return sorted(found, key=repr)


def test_the_last_report_of_a_batch_stands_and_every_one_is_kept(many):
    (name,) = prepare(many, 1)
    Ingestor(many.hub).take(Traffic("benchmark", [name], spool="a").batch(9))
    with many.hub.reading() as session:
        found = session.connection().exec_driver_sql("SELECT release, p50_us FROM measured ORDER BY release").all()
    assert [tuple(row) for row in found] == [(1, 179.0), (2, 177.0), (3, 178.0)]
    assert [row.seq for row in rows(many, DeviceEvent)] == list(range(1, 10))


def test_a_spool_that_was_forgotten_goes_on_where_its_records_end(fleet):
    """A device with more spools than are counted comes back to its first: nothing of it is taken twice."""
    ingestor = Ingestor(fleet.hub)
    first = [good(seq, "cam-1", spool="first") for seq in (1, 2)]
    ingestor.take(first)
    for number in range(SPOOLS):
        fleet.clock.advance(1)
        ingestor.take([good(1, "cam-1", spool=f"other-{number}")])
    assert "first" not in {row.spool for row in rows(fleet, SpoolCursor)}
    assert receipts(ingestor.take([*first, good(3, "cam-1", spool="first"), good(1)])) == {"cam-1": 3, "cam-2": 1}
    assert [row.seq for row in rows(fleet, DeviceEvent, spool="first")] == [1, 2, 3] and rows(fleet, SetAside) == []


def test_more_spools_in_one_batch_than_are_counted_are_each_taken_once(fleet):
    ingestor = Ingestor(fleet.hub)
    batch = [good(seq, "cam-1", spool=f"s-{number}") for seq in (1, 2) for number in range(SPOOLS + 8)]
    ingestor.take([*batch, *batch])
    assert len(rows(fleet, DeviceEvent)) == len(batch) and rows(fleet, SetAside) == []
    assert len(rows(fleet, SpoolCursor)) == SPOOLS
    assert ingestor.counts["repeated"] == len(batch)


def test_what_is_kept_of_a_window_is_what_a_reader_may_find():
    """No number and no word of it needs to be looked at again."""
    for kind in ("window", "paired"):
        for message in Traffic(kind, ["cam-1"]).batch(5):
            document = read_record(message.payload).document
            assert document_text(storable(document, "window")) == document_text(document)
    strange = bad.envelope("cam-1", 1, bad.replaced(bad.WINDOW, variant="a\0b" + "ü" * 20_000), "window")
    document = read_record(strange).document
    assert document["variant"][:4] == "a\ufffdbü"
    assert document_text(storable(document, "window")) == document_text(document)


def test_a_batch_of_nobody_known_costs_nothing_and_answers_nobody(fleet):
    assert Ingestor(fleet.hub).take([up(b"x", device="cam-9"), good(1, "cam-8")]) == []
    with fleet.hub.reading() as session:
        assert session.exec(select(SpoolCursor)).all() == []

"""One device with valid credentials sends what it likes; what the others report lands, on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlmodel import select

from cloud_hub.ingest import aside, records
from cloud_hub.ingest.ingestor import Ingestor, Message, Outgoing
from cloud_hub.ingest.records import MODELS
from cloud_hub.ingest.service import Ingest
from cloud_hub.store.senders import SPOOLS
from cloud_hub.store.tables import Device, DeviceEvent, DeviceModel, SetAside, SpoolCursor
from fleet.protocol import topics
from fleet.protocol.codec import encode_json, encode_msgpack
from fleet.protocol.messages import Command, Receipt, Signed, Status
from tests.support import bad_messages as bad
from tests.support.hub import HubFixture, make_hub
from tests.support.size import examples

NUMBERED, UNNUMBERED, STATUSES = dict(bad.numbered("cam-1")), dict(bad.unnumbered("cam-1")), dict(bad.statuses())


@pytest.fixture
def fleet(tmp_path, hub_database) -> HubFixture:
    made = make_hub(tmp_path, database=hub_database)
    made.model()
    with made.hub.session() as session:
        for name in ("cam-1", "cam-2"):
            session.add(
                Device(
                    id=name,
                    public_key="-",
                    key_fingerprint=name,
                    certificate="-",
                    certificate_serial="1",
                    certificate_expires_at=0.0,
                    channel="stable",
                    enrolled_at=0.0,
                )
            )
    yield made
    made.hub.engine.dispose()


def up(payload: bytes, leaf: str = "report", device: str = "cam-1") -> Message:
    return Message(topics.uplink(device, leaf), payload)


def good(seq: int, device: str = "cam-2", **changes) -> Message:
    return up(bad.envelope(device, seq, **changes), device=device)


def receipts(out: Sequence[Outgoing]) -> dict[str, int]:
    """The receipts that devices get, by device."""
    found = {}
    for topic, payload in out:
        command = msgspec.json.decode(msgspec.json.decode(payload, type=Signed).payload, type=Command)
        found[topic.split("/")[-2]] = msgspec.convert(command.args, Receipt).committed
    return found


def rows(fleet: HubFixture, kind, **where):
    with fleet.hub.reading() as session:
        return list(session.exec(select(kind).filter_by(**where)))


def test_every_bad_record_is_set_aside_and_numbered_off_and_the_batch_lands(fleet):
    batch = [good(1)]
    for seq, make in enumerate(NUMBERED.values(), 1):
        batch += [up(make(seq)), good(seq + 1)]
    top = len(NUMBERED)
    batch.append(good(top + 1, "cam-1"))
    assert receipts(Ingestor(fleet.hub).take(batch)) == {"cam-1": top + 1, "cam-2": top + 1}
    assert {row.seq for row in rows(fleet, SetAside, device_id="cam-1")} == set(range(1, top + 1))
    assert [row.seq for row in rows(fleet, DeviceEvent, device_id="cam-1")] == [top + 1]
    assert len(rows(fleet, DeviceEvent, device_id="cam-2")) == top + 1
    assert rows(fleet, Device, id="cam-1")[0].set_aside == top


def test_bad_messages_without_a_number_move_no_cursor_and_the_batch_lands(fleet):
    batch = [*map(up, UNNUMBERED.values()), *(up(data, "status") for data in STATUSES.values()), good(1)]
    assert receipts(Ingestor(fleet.hub).take([*batch, good(1, "cam-1")])) == {"cam-1": 1, "cam-2": 1}
    assert len(rows(fleet, SetAside, device_id="cam-1")) == len(UNNUMBERED) + len(STATUSES)
    assert [(row.spool, row.committed) for row in rows(fleet, SpoolCursor, device_id="cam-1")] == [("s1", 1)]
    assert not rows(fleet, Device, id="cam-1")[0].online


JUNK = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.binary() | st.integers(-(1 << 63), (1 << 64) - 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("v", "spool", "seq", "base", "at", "kind", "body")
INNER = ("model", "state", "target", "progress", "detail", "counters", "classes", "pairs", "sketch", "data", "ended_at")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60))
@given(
    outer=st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=2),
    inner=st.dictionaries(st.sampled_from(INNER), JUNK, max_size=2),
    kind=st.sampled_from(["model", "agent", "result", "window"]),
    data=st.data(),
)
def test_whatever_a_device_sends_the_others_are_receipted(fleet, outer, inner, kind, data):
    body = {"agent": "1", "channel": "c", "id": "", "ok": True, **msgspec.structs.asdict(bad.WINDOW), "state": "idle"}
    cursor = rows(fleet, SpoolCursor, device_id="cam-2")
    seq = cursor[0].committed + 1 if cursor else 1
    sent = encode_msgpack(
        {
            "v": 1,
            "device": "cam-1",
            "spool": "s1",
            "seq": seq,
            "base": 1,
            "at": 1.0,
            "kind": kind,
            **{"body": {**body, **inner}, **outer},
        }
    )
    status = encode_json({"state": "online", "session": data.draw(st.text()), "at": 1.0})
    out = Ingestor(fleet.hub).take([up(sent), up(status, "status"), good(seq)])
    assert receipts(out)["cam-2"] == seq


def test_words_that_no_database_takes_are_mended_where_a_report_would_be_lost(fleet):
    body = bad.replaced(bad.REPORT, state="rolled_back", reason="selftest-failed", detail="died\0" + "x" * 20_000)
    Ingestor(fleet.hub).take([good(1, body=body)])
    (row,) = rows(fleet, DeviceModel)
    assert (row.state, row.detail[:6], len(row.detail)) == ("rolled_back", "died\ufffdx", 10_000)
    assert rows(fleet, SetAside) == []


def test_whole_numbers_of_64_bits_are_kept(fleet):
    body = bad.replaced(bad.REPORT, target=(1 << 63) - 1, channel_version=1 << 40)
    out = Ingestor(fleet.hub).take([good(1 << 61, base=1 << 61, body=body)])
    assert receipts(out) == {"cam-2": 1 << 61}
    (row,) = rows(fleet, DeviceModel)
    assert (row.target, row.channel_version, row.seq) == ((1 << 63) - 1, 1 << 40, 1 << 61)


def test_a_kind_of_a_later_agent_is_numbered_off_and_kept_whole(fleet):
    body = {"trace": "x" * 10_000}
    out = Ingestor(fleet.hub).take([good(1, kind="trace", body=body), good(2)])
    assert receipts(out) == {"cam-2": 2}
    (row,) = rows(fleet, SetAside)
    assert (row.reason, row.seq) == ("unknown-kind", 1)
    assert msgspec.msgpack.decode(row.payload)["body"] == body


def test_an_operator_sees_what_was_set_aside_and_why(fleet):
    Ingestor(fleet.hub).take([up(NUMBERED["at-nan"](1)), up(b"noise")])
    get, headers = fleet.client.get, fleet.auth()
    assert get("/api/v1/devices/cam-1", headers=headers).json()["set_aside"] == 2
    items = get("/api/v1/devices/cam-1/set-aside", headers=headers).json()["items"]
    assert [(item["seq"], item["reason"], item["kept_bytes"] > 0) for item in items] == [
        (None, "malformed", True),
        (1, "malformed", True),
    ]
    assert items[1]["detail"] == "at: nan is no moment between 1970 and the year 9999"
    assert get("/api/v1/devices/nobody/set-aside", headers=headers).status_code == 404


def test_a_failure_that_nobody_foresaw_costs_one_record(fleet, monkeypatch):
    real = records.write

    def write(session, taken, now):
        found = real(session, taken, now)
        if any(one.message.sender.id == "cam-1" for one in taken):
            raise ZeroDivisionError("a bug")
        return found

    monkeypatch.setattr(records, "write", write)
    assert receipts(Ingestor(fleet.hub).take([good(1), good(1, "cam-1"), good(2)])) == {"cam-1": 1, "cam-2": 2}
    assert [row.device_id for row in rows(fleet, DeviceEvent)] == ["cam-2", "cam-2"]
    assert [(row.reason, row.detail) for row in rows(fleet, SetAside)] == [("refused", "ZeroDivisionError: a bug")]


def refusing(fleet: HubFixture, word: str):
    """Let the database fail on every statement that carries `word` in a report, as if it were not there."""

    def refuse(_connection, _cursor, statement, parameters, *_):
        if not word or ("set_aside" not in statement and word in str(parameters)):
            raise OperationalError(statement, {}, Exception("disk I/O error"))

    event.listen(fleet.hub.engine, "before_cursor_execute", refuse)


def test_a_record_that_fails_the_batch_as_an_outage_does_is_found_and_set_aside(fleet):
    refusing(fleet, "poison")
    batch = [good(1), good(1, "cam-1", body=bad.replaced(bad.REPORT, detail="poison")), good(2)]
    ingestor = Ingestor(fleet.hub)
    with pytest.raises(OperationalError):
        ingestor.take(batch)
    assert rows(fleet, DeviceEvent) == []
    assert receipts(ingestor.take_apart(batch)) == {"cam-1": 1, "cam-2": 2}
    assert [row.reason for row in rows(fleet, SetAside)] == ["refused"]


def test_an_outage_sets_nothing_aside_and_receipts_nothing(fleet):
    refusing(fleet, "")
    ingestor = Ingestor(fleet.hub)
    for take in (ingestor.take, ingestor.take_apart):
        with pytest.raises(OperationalError):
            take([good(1)])
    assert ingestor.counts["refused"] == 0


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_committed_before_an_outage_is_receipted_and_never_heard_again(fleet, monkeypatch, apart):
    """A batch in halves, of which the database takes the first one: two starts of an agent are no two machines."""
    real, down = records.write, []

    def write(session, taken, now):
        if len({one.message.sender.id for one in taken}) > 1:
            raise ZeroDivisionError("a bug, of both together")
        return real(session, taken, now)

    def refuse(_connection, _cursor, statement, *_):
        if down:
            raise OperationalError(statement, {}, Exception("server closed the connection"))

    starts = [Status(state="online", session=name, instance=name) for name in "AB"]
    first = [*(up(encode_json(one), "status", "cam-2") for one in starts), good(1)]
    sent: list[tuple[str, bytes]] = []
    ingest = Ingest(fleet.hub)
    ingest._shards.look()
    ingest._batch = [*first, *(good(seq, "cam-1") for seq in (1, 2, 3))]
    link = SimpleNamespace(publish=lambda topic, payload: sent.append((topic, payload)))
    monkeypatch.setattr(records, "write", write)
    event.listen(fleet.hub.engine, "before_cursor_execute", refuse)
    event.listen(fleet.hub.engine, "commit", fall := down.append)
    with pytest.raises(OperationalError):
        ingest._take(link, apart)
    event.remove(fleet.hub.engine, "commit", fall)
    down.clear()
    assert receipts(sent) == {"cam-2": 1}, "of what is committed"
    ingest._take(link, apart)
    assert receipts(sent) == {"cam-1": 3, "cam-2": 1} and not ingest._batch
    assert "cloned_at" not in rows(fleet, Device, id="cam-2")[0].sessions
    assert len(rows(fleet, DeviceEvent)) == 4 and rows(fleet, SetAside) == []


def test_floods_are_bounded_per_device_and_reason(fleet, monkeypatch):
    monkeypatch.setattr(aside, "KEPT", 5)
    ingestor = Ingestor(fleet.hub)
    ingestor.take([up(b"noise", device="cam-2"), good(1, "cam-1", kind="trace")])
    ingestor.take([up(b"\xff" * 60_000) for _ in range(30)])
    kept = rows(fleet, SetAside, device_id="cam-1")
    assert sorted(row.reason for row in kept) == ["malformed"] * 5 + ["unknown-kind"]
    assert max(len(row.payload) for row in kept) <= aside.HEAD
    assert len(rows(fleet, SetAside, device_id="cam-2")) == 1
    assert rows(fleet, Device, id="cam-1")[0].set_aside == 31


def test_a_device_has_so_many_spools_and_models_and_the_one_in_use_stays(fleet):
    ingestor = Ingestor(fleet.hub)
    ingestor.take([good(n) for n in range(1, 4)])
    for spool in range(3 * SPOOLS):
        fleet.clock.advance(1)
        ingestor.take([good(1, spool=f"spool-{spool}"), good(4 + spool)])
    cursors = rows(fleet, SpoolCursor)
    assert len(cursors) == SPOOLS
    assert max(row.committed for row in cursors if row.spool == "s1") == 3 + 3 * SPOOLS
    names = [bad.replaced(bad.REPORT, model=f"m-{n}") for n in range(MODELS + 3)]
    ingestor.take([good(n, "cam-1", body=body) for n, body in enumerate(names, 1)])
    assert len(rows(fleet, DeviceModel, device_id="cam-1")) == MODELS
    assert [row.seq for row in rows(fleet, SetAside)] == [MODELS + 1, MODELS + 2, MODELS + 3]


def test_a_status_of_a_later_agent_is_heard(fleet):
    status = Status(state="online", session="abc", at=1.0, agent="9.9")
    later = encode_json({**msgspec.to_builtins(status), "mood": {"x": [1 << 70]}})
    Ingestor(fleet.hub).take([up(later, "status")])
    assert rows(fleet, Device, id="cam-1")[0].online

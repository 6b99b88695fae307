"""Order, duplicates, gaps and damage: what reaches the database, and which receipts go out."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlmodel import select

from cloud_hub.devices import status, vitals
from cloud_hub.ingest.batch import step
from cloud_hub.ingest.commands import send_command, waiting
from cloud_hub.ingest.ingestor import Ingestor, Message
from cloud_hub.store import pairing
from cloud_hub.store.tables import (
    Device,
    DeviceEvent,
    DeviceModel,
    PairEvidence,
    PairInput,
    PairShared,
    RolloutRow,
    SetAside,
    SpoolCursor,
    VitalsHourRow,
    WindowRow,
)
from edge_agent.identity.keys import signed_by
from edge_agent.mqtt import gobackn
from edge_agent.mqtt.command_verification import decode_keys, verified_command
from fleet.api.vitals import VitalsHour
from fleet.protocol import topics
from fleet.protocol.codec import encode_json, encode_msgpack
from fleet.protocol.durations import DAY_S, HOUR_S
from fleet.protocol.messages import AgentReport, Envelope, ModelReport, Receipt, Status, Vitals
from fleet.protocol.resolve import cohort_place
from fleet.protocol.telemetry import PairCounts, SketchData, Window
from fleet.rollouts.plan import Plan, Progress
from fleet.rollouts.stages import plan_stages
from tests.support.hub import START, HubFixture
from tests.support.size import examples


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    hub.model()
    with hub.hub.session() as session:
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
    return hub


def envelope(seq, body, kind="model", *, base=1, device="cam-1", topic_of="", spool="s1") -> Message:
    leaf = "telemetry" if kind == "window" else "report"
    raw = body if isinstance(body, bytes) else encode_msgpack(body)
    data = encode_msgpack(
        Envelope(device=device, spool=spool, seq=seq, base=base, at=1.0, kind=kind, body=msgspec.Raw(raw))
    )
    return Message(topics.uplink(topic_of or device, leaf), data)


def report(state="fetching", **fields) -> ModelReport:
    return ModelReport(model="digits", state=state, **fields)


def window(**fields) -> Window:
    usual = {"started_at": 1.0, "ended_at": 2.0, "counters": {"requests": 5}}
    return Window(model="digits", release=2, variant="litert-int8", auditor=1, **{**usual, **fields})


def live_rollout(fleet: HubFixture, **other: object) -> None:
    plan = {"stages": [{"share_ppm": 1_000_000}]}
    fields = {"channel": "stable", "release": 2, "from_release": 1, "salt": "s", "plan": plan, **other}
    with fleet.hub.session() as session:
        session.add(RolloutRow(id="r-1", model="digits", state="running", created_at=0.0, updated_at=0.0, **fields))


def keys(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


def upto(fleet: HubFixture, out) -> list[tuple[str, int]]:
    """The number that the receipts reach, checked the way a device checks them."""
    keys, found = decode_keys(fleet.hub.command_key.target()), []
    for topic, payload in out:
        device = topic.split("/")[-2]
        command = verified_command(payload, keys, verify=signed_by, device=device, counter=0, now=fleet.clock())
        assert command.kind == "receipt"
        receipt = msgspec.convert(command.args, Receipt)
        found.append((device, receipt.committed))
    return found


def rows(fleet: HubFixture, kind):
    with fleet.hub.reading() as session:
        return list(session.exec(select(kind)))


def test_records_land_in_order_with_one_receipt_for_the_batch(fleet):
    out = Ingestor(fleet.hub).take(
        [envelope(n, report(s)) for n, s in enumerate(["fetching", "verifying", "trying"], 1)]
    )
    assert upto(fleet, out) == [("cam-1", 3)]
    (row,) = rows(fleet, DeviceModel)
    assert (row.state, row.seq) == ("trying", 3)
    assert len(rows(fleet, DeviceEvent)) == 3


def test_a_duplicate_changes_nothing_and_is_receipted_again(fleet):
    ingestor = Ingestor(fleet.hub)
    live_rollout(fleet)
    pairs = PairCounts(rollout="r-1", attempt=1, old=1, new=2, both=7, only_old=2, keys=keys(*range(9)))
    told = window(pairs=pairs, counters={"requests": 9, "audited": 9})
    ingestor.take([envelope(1, told, "window")])
    assert upto(fleet, ingestor.take([envelope(1, told, "window")])) == [("cam-1", 1)]
    (evidence,) = rows(fleet, PairEvidence)
    assert (evidence.both, evidence.only_old) == (7, 2)
    assert len(rows(fleet, WindowRow)) == 1


def paired(
    fleet: HubFixture,
    seq: int,
    device: str,
    counts: dict[str, int],
    inputs: bytes,
    repeats: int = 0,
    audited: int | None = None,
) -> None:
    told = PairCounts(rollout="r-1", attempt=1, old=1, new=2, keys=inputs, repeats=repeats, **counts)
    counters = {"audited": sum(counts.values()) + repeats if audited is None else audited}
    Ingestor(fleet.hub).take([envelope(seq, window(pairs=told, counters=counters), "window", device=device)])


def test_an_input_counts_once_in_a_rollout_whoever_meets_it(fleet):
    live_rollout(fleet)
    most = (1 << 64) - 1  # signed in the database
    paired(fleet, 1, "cam-1", {"both": 2, "only_old": 1}, keys(1, 2, most), repeats=4)
    paired(fleet, 2, "cam-1", {"both": 1, "neither": 1}, keys(2, 3))  # 2 comes again in another window
    paired(fleet, 1, "cam-2", {"only_old": 2, "only_new": 1}, keys(most, 4, 5))  # and one on another device
    found = {row.device_id: row for row in rows(fleet, PairEvidence)}
    shown = {name: (r.both, r.only_old, r.only_new, r.neither, r.repeats) for name, r in found.items()}
    settled = {"cam-1": (2, 1, 0, 1, 5), "cam-2": (0, 1, 1, 0, 1)}, {"cam-1": (2, 0, 0, 1, 5), "cam-2": (0, 2, 1, 0, 1)}
    assert shown in settled, "what two say belongs to one of them, by lot"
    own = {name: (row.claimed, row.own_old, row.own_new) for name, row in found.items()}
    assert own == {"cam-1": (4, 1, 0), "cam-2": (3, 2, 1)}
    (shared,) = rows(fleet, PairShared)
    assert (shared.settled, shared.disputed) == (1, 0)
    assert all(row.body["pairs"]["keys"] == "" for row in rows(fleet, WindowRow)), "no input is kept with a window"


def test_devices_that_contradict_one_another_are_counted_with_what_they_dispute(fleet):
    live_rollout(fleet)
    paired(fleet, 1, "cam-1", {"both": 3}, keys(1, 2, 3))
    paired(fleet, 1, "cam-2", {"both": 1, "only_old": 1, "only_new": 1}, keys(1, 2, 3))
    paired(fleet, 2, "cam-1", {"only_old": 1}, keys(2))  # it takes nothing back
    found = {row.device_id: (row.claimed, row.disputed, row.repeats) for row in rows(fleet, PairEvidence)}
    assert found == {"cam-1": (3, 2, 1), "cam-2": (3, 2, 3)}
    assert sum(row.both for row in rows(fleet, PairEvidence)) == 1
    (shared,) = rows(fleet, PairShared)
    assert (shared.settled, shared.disputed, shared.maybe_old, shared.maybe_new) == (1, 2, 1, 1)
    assert {row.key: set(row.claims.values()) for row in rows(fleet, PairInput)} == {
        1: {"both"},
        2: {"both", "only_old"},
        3: {"both", "only_new"},
    }


def test_a_device_that_no_stage_has_held_says_nothing_of_inputs(fleet):
    """It would speak first of inputs that the cohort meets later."""
    stages, half = plan_stages([50, 100]), 500_000
    salt = next(s for s in map(str, range(99)) if cohort_place(s, "cam-1") < half <= cohort_place(s, "cam-2"))
    plan = Plan(id="r-1", model="digits", channel="stable", release=2, from_release=1, stages=stages, salt=salt)
    live_rollout(fleet, salt=salt, plan=msgspec.to_builtins(plan), progress=msgspec.to_builtins(Progress()))
    for name in ("cam-2", "cam-1"):
        paired(fleet, 1, name, {"both": 2}, keys(1, 2))
    assert [(row.device_id, row.both) for row in rows(fleet, PairEvidence)] == [("cam-1", 2)]


def test_while_nobody_is_served_no_audited_pair_counts(fleet):
    """It would stand beside what a shadow stage compares, of the same inputs."""
    live_rollout(fleet, progress={"stage": 0, "shadowing": True})
    paired(fleet, 1, "cam-1", {"only_new": 2}, keys(1, 2))
    assert rows(fleet, PairEvidence) == [] == rows(fleet, PairInput)


def test_of_a_rollout_of_a_newer_hub_those_speak_whom_a_stage_has_held(fleet):
    stages = [{"share_ppm": 500_000}, {"share_ppm": 1_000_000}]
    salt = next(s for s in map(str, range(99)) if cohort_place(s, "cam-1") < 500_000 <= cohort_place(s, "cam-2"))
    live_rollout(fleet, salt=salt, plan={"stages": stages, "of a later day": 1}, progress={"stage": 0})
    for name in ("cam-2", "cam-1"):
        paired(fleet, 1, name, {"both": 2}, keys(1, 2))
    assert [row.device_id for row in rows(fleet, PairEvidence)] == ["cam-1"]


def test_pairs_that_name_no_input_prove_nothing(fleet):
    live_rollout(fleet)
    paired(fleet, 1, "cam-1", {"both": 90, "only_old": 4}, b"")
    (evidence,) = rows(fleet, PairEvidence)
    assert (evidence.both, evidence.only_old, evidence.unnamed) == (0, 0, 94)


@pytest.mark.parametrize("audited", [0, 2])
def test_more_pairs_than_were_audited_prove_nothing(fleet, audited: int):
    live_rollout(fleet)
    paired(fleet, 1, "cam-1", {"only_old": 3}, keys(0, 1, 2), audited=audited)
    (evidence,) = rows(fleet, PairEvidence)
    assert (evidence.only_old, evidence.unnamed) == (0, 3) and rows(fleet, PairInput) == []


def test_counts_are_bounded_by_what_a_device_can_have_served(fleet):
    live_rollout(fleet)
    counters = {"requests": 1 << 49, "newly_refused": 1 << 49}
    told = window(rollout="r-1", attempt=1, counters=counters, started_at=0.0, ended_at=2.0)
    Ingestor(fleet.hub).take([envelope(1, told, "window")])
    (evidence,) = rows(fleet, PairEvidence)
    assert evidence.newly_refused == evidence.answered == 2 * pairing.MOST_PER_S


def test_how_long_a_device_was_quiet_is_noted(fleet):
    for seq, later_s in enumerate((0.0, 1800.0, 60.0), 1):
        fleet.clock.advance(later_s)
        Ingestor(fleet.hub).take([envelope(seq, report())])
    with fleet.hub.reading() as session:
        device = session.get(Device, "cam-1")
        assert device is not None and device.quiet_s == 1800.0


def test_one_device_brings_so_many_inputs_and_no_more_whatever_they_show(fleet, monkeypatch):
    monkeypatch.setattr(pairing, "MOST_INPUTS", 5)
    live_rollout(fleet)
    paired(fleet, 1, "cam-1", {"both": 3}, keys(0, 1, 2))
    paired(fleet, 2, "cam-1", {"both": 2, "only_old": 2}, keys(8, 9, 6, 7))
    (evidence,) = rows(fleet, PairEvidence)
    assert (evidence.both, evidence.only_old, evidence.repeats) == (3, 2, 2) and len(rows(fleet, PairInput)) == 5


@pytest.mark.parametrize(
    "other",
    [
        {"ended_at": 1.0},
        {"attempt": 2},  # the pairs are of its first
        {"channel": "other"},
        {"release": 3},
        {"from_release": 2},
        None,
    ],
    ids=str,
)
def test_pairs_of_no_live_attempt_on_the_devices_channel_are_not_kept(fleet, other):
    if other is not None:
        live_rollout(fleet, **other)
    paired(fleet, 1, "cam-1", {"both": 1}, keys(1))
    assert rows(fleet, PairEvidence) == [] and rows(fleet, PairInput) == []


def test_what_a_rollout_that_has_ended_counted_is_forgotten(fleet):
    live_rollout(fleet)
    paired(fleet, 1, "cam-1", {"both": 1}, keys(1))
    with fleet.hub.session() as session:
        pairing.forget(session, "r-1")
    assert rows(fleet, PairInput) == [] and len(rows(fleet, PairEvidence)) == 1


def test_requests_of_an_attempt_that_is_not_begun_are_not_counted(fleet):
    live_rollout(fleet)
    Ingestor(fleet.hub).take([envelope(1, window(rollout="r-1", attempt=1 << 40), "window")])
    assert rows(fleet, PairEvidence) == []


@pytest.mark.parametrize("inputs", [keys(1), keys(1, 1), keys(1, 2)[:-1], keys(1, 2, 3)], ids=str)
def test_keys_that_do_not_fit_their_counts_are_set_aside(fleet, inputs):
    live_rollout(fleet)
    paired(fleet, 1, "cam-1", {"both": 1, "only_old": 1}, inputs)
    assert [row.reason for row in rows(fleet, SetAside)] == ["malformed"] and rows(fleet, PairInput) == []


def test_a_record_that_comes_too_early_waits_for_the_device_to_send_again(fleet):
    ingestor = Ingestor(fleet.hub)
    assert upto(fleet, ingestor.take([envelope(2, report())])) == [("cam-1", 0)]
    assert rows(fleet, DeviceEvent) == []
    assert upto(fleet, ingestor.take([envelope(1, report()), envelope(2, report("trying"))])) == [("cam-1", 2)]


def test_numbers_that_a_full_spool_gave_up_are_counted_as_lost(fleet):
    ingestor = Ingestor(fleet.hub)
    ingestor.take([envelope(1, report())])
    assert upto(fleet, ingestor.take([envelope(6, report(), base=6)])) == [("cam-1", 6)]
    (cursor,) = rows(fleet, SpoolCursor)
    assert (cursor.committed, cursor.lost) == (6, 4)


def test_a_body_that_cannot_be_read_is_numbered_off_and_kept(fleet):
    out = Ingestor(fleet.hub).take([envelope(1, b"\x93\x01\x02\x03"), envelope(2, report())])
    assert upto(fleet, out) == [("cam-1", 2)]
    assert [row.kind for row in rows(fleet, DeviceEvent)] == ["model"]
    assert [(row.reason, row.spool, row.seq) for row in rows(fleet, SetAside)] == [("malformed", "s1", 1)]


def test_a_record_that_the_database_refuses_does_not_hold_up_the_others(fleet):
    out = Ingestor(fleet.hub).take(
        [envelope(1, report()), envelope(2, report("trying", target=1 << 63)), envelope(3, report("committed"))]
    )
    assert upto(fleet, out) == [("cam-1", 3)]
    assert [(row.kind, row.seq) for row in rows(fleet, DeviceEvent)] == [("model", 1), ("model", 3)]
    assert [(row.reason, row.seq) for row in rows(fleet, SetAside)] == [("malformed", 2)]
    assert [row.state for row in rows(fleet, DeviceModel)] == ["committed"]


def test_nobody_speaks_for_another_device(fleet):
    ingestor = Ingestor(fleet.hub)
    out = ingestor.take([envelope(1, report(), device="cam-1", topic_of="cam-2")])
    assert out == [] and rows(fleet, DeviceEvent) == []
    assert [(row.device_id, row.reason, row.seq) for row in rows(fleet, SetAside)] == [("cam-2", "malformed", None)]


@pytest.mark.parametrize("payload", [b"", b"\xff" * 10, b"x" * 70_000, b"{}"])
def test_bytes_that_are_no_envelope_are_refused_and_the_rest_of_the_batch_lands(fleet, payload):
    ingestor = Ingestor(fleet.hub)
    out = ingestor.take([Message(topics.uplink("cam-1", "report"), payload), envelope(1, report())])
    assert upto(fleet, out) == [("cam-1", 1)] and ingestor.counts["malformed"] == 1


def test_revoked_and_unknown_devices_are_not_heard(fleet):
    with fleet.hub.session() as session:
        session.get(Device, "cam-2").revoked_at = 1.0
    ingestor = Ingestor(fleet.hub)
    assert ingestor.take([envelope(1, report(), device="cam-2"), envelope(1, report(), device="cam-9")]) == []
    assert ingestor.counts["unknown"] == 2


def test_a_window_keeps_its_sketch_and_an_agent_report_its_facts(fleet):
    sketch = SketchData(sketch_id="s", count=4, sums=b"\0" * 8)
    agent = AgentReport(agent="0.1", channel="stable", capabilities=("a",))
    Ingestor(fleet.hub).take([envelope(1, window(sketch=sketch), "window"), envelope(2, agent, "agent")])
    (row,) = rows(fleet, WindowRow)
    assert (row.sketch_id, row.sketch_count, row.sketch) == ("s", 4, b"\0" * 8)
    assert row.body["counters"] == {"requests": 5}
    assert next(d for d in rows(fleet, Device) if d.id == "cam-1").info["capabilities"] == ["a"]


def test_a_late_last_will_of_an_older_session_is_ignored(fleet):
    ingestor, topic = Ingestor(fleet.hub), topics.uplink("cam-1", "status")

    def say(state, session):
        ingestor.take([Message(topic, encode_json(Status(state=state, session=session)))])
        return next(d for d in rows(fleet, Device) if d.id == "cam-1").online

    assert say("online", "one") and say("online", "two")
    assert say("lost", "one")
    assert not say("lost", "two")


def test_a_heartbeat_says_how_the_machine_does_and_what_does_not_say_it_leaves_it(fleet):
    ingestor, topic = Ingestor(fleet.hub), topics.uplink("cam-1", "status")
    ingestor.take([Message(topic, encode_json(Status(state="online", session="one")))])
    assert status.detail(fleet.hub, "cam-1").vitals is None
    told = Status(state="online", session="one", vitals=Vitals(cpu=0.5, disk=1 << 40, disk_free=1 << 39))
    ingestor.take([Message(topic, encode_json(told))])
    fleet.clock.advance(60)
    ingestor.take([Message(topic, encode_json(Status(state="lost", session="one")))])
    found = status.detail(fleet.hub, "cam-1").vitals
    assert found is not None and (found.at, found.cpu, found.disk_free) == (fleet.clock() - 60, 0.5, 1 << 39)
    assert found.celsius is None and found.memory is None


@pytest.mark.parametrize(
    "told", ['"cpu":1.5', '"celsius":1e300', '"memory":18446744073709551615', '"disk":1,"disk_free":2']
)
def test_a_broken_sensor_makes_no_device_look_absent(fleet, told):
    status_of = b'{"state":"online","session":"one","vitals":{%s,"memory_free":7}}' % told.encode()
    Ingestor(fleet.hub).take([Message(topics.uplink("cam-1", "status"), status_of)])
    assert next(d for d in rows(fleet, Device) if d.id == "cam-1").online
    found = status.detail(fleet.hub, "cam-1").vitals
    assert found is not None and (found.cpu, found.celsius, found.memory, found.disk_free) == (None,) * 4
    assert found.memory_free == 7


def test_heartbeats_of_an_hour_are_one_row_and_the_hour_under_way_is_shown(fleet):
    ingestor, topic, start = Ingestor(fleet.hub), topics.uplink("cam-1", "status"), fleet.clock() // 3600 * 3600

    def beat(at: float, **told: float) -> Message:
        fleet.clock.now = start + at
        return Message(topic, encode_json(Status(state="online", session="one", vitals=Vitals(**told))))

    ingestor.take([beat(10, memory=1 << 40, memory_free=900, celsius=-3.0)])  # the first one knows no CPU
    for at, cpu, free, celsius in ((70, 0.2, 700, 41.0), (130, 0.8, 800, 40.0)):
        ingestor.take([beat(at, cpu=cpu, memory=1 << 40, memory_free=free, celsius=celsius)])
    hour = {"begins": int(start), "heartbeats": 3, "cpu": 0.5, "cpu_most": 0.8, "memory": 1 << 40, "memory_free": 700}
    hour |= {"disk": None, "disk_free": None, "celsius": 41.0}
    assert [one.model_dump() for one in hours(fleet)] == [hour] and rows(fleet, VitalsHourRow) == []
    ingestor.take([beat(3 * 3600, cpu=0.1)])
    ingestor.take([beat(4 * 3600, cpu=1.0)])
    found = hours(fleet)
    assert found[0].model_dump() == hour
    assert [(one.begins - start, one.heartbeats, one.cpu) for one in found[1:]] == [(10800, 1, 0.1), (14400, 1, 1.0)]
    assert hours(fleet, since=start + 4 * 3600) == found[2:] == hours(fleet, after=int(start) + 10800)
    part = vitals.list_hours(fleet.hub, "cam-1", since=0, after=0, limit=2)
    assert part.items == found[:2] and hours(fleet, after=part.next) == found[2:]
    assert hours(fleet, device="cam-2") == []


def test_a_clock_of_the_hub_that_leaps_loses_no_hour(fleet):
    ingestor, topic = Ingestor(fleet.hub), topics.uplink("cam-1", "status")
    told = encode_json(Status(state="online", session="one", vitals=Vitals(cpu=0.5)))
    start = fleet.clock()
    for leap in (0, 7200, -3600):
        fleet.clock.now = start + leap
        ingestor.take([Message(topic, told), Message(topic, told)])
    begins = int(start // 3600 * 3600)
    kept = {row.begins: row.heartbeats for row in rows(fleet, VitalsHourRow)}
    assert kept == {begins: 2, begins + 7200: 2}
    assert [(one.begins - begins, one.heartbeats) for one in hours(fleet)] == [(-3600, 2), (0, 2), (7200, 2)]


def test_a_clock_that_goes_back_over_a_full_hour_loses_no_heartbeat(fleet):
    """One step of NTP, or two hubs whose clocks differ: the hours that are over are not begun anew."""
    begins = leap(fleet, (0, 3600, 0, 3600, 3599, 3600))
    assert [(one.begins - begins, one.heartbeats) for one in hours(fleet)] == [(0, 2), (3600, 10)]


def test_an_hour_that_a_larger_leap_begins_anew_stays_as_full_as_it_was(fleet):
    begins = leap(fleet, (0, 0, 0, 7200, 0))
    assert [(one.begins - begins, one.heartbeats) for one in hours(fleet)] == [(0, 6), (7200, 2)]
    leap(fleet, (7200,))
    assert [(one.begins - begins, one.heartbeats) for one in hours(fleet)] == [(0, 6), (7200, 2)]


def test_the_last_hour_of_a_silent_device_is_shown_no_longer_than_others(fleet):
    begins = leap(fleet, (0, 3600))
    fleet.clock.now = begins + 3600 + 30 * DAY_S - 1
    assert [one.begins - begins for one in hours(fleet)] == [3600]
    fleet.clock.advance(2)
    assert hours(fleet) == []


def leap(fleet: HubFixture, leaps: tuple[int, ...]) -> int:
    """Set the clock so many seconds after a full hour, which is returned, and send two heartbeats each time."""
    ingestor, topic = Ingestor(fleet.hub), topics.uplink("cam-1", "status")
    told = Message(topic, encode_json(Status(state="online", session="one", vitals=Vitals(cpu=0.5))))
    begins = START // HOUR_S * HOUR_S
    for seconds in leaps:
        fleet.clock.now = begins + seconds
        ingestor.take([told, told])
    return begins


def hours(fleet: HubFixture, device: str = "cam-1", since: float = 0.0, after: int = 0) -> list[VitalsHour]:
    return vitals.list_hours(fleet.hub, device, since=since, after=after, limit=99).items


def test_a_crash_before_the_commit_gives_no_receipt_and_the_record_comes_again(fleet, monkeypatch):
    from cloud_hub.ingest import records

    class PowerLoss(BaseException):
        """An end that no code catches."""

    def dies(*_):
        raise PowerLoss

    with monkeypatch.context() as patch, pytest.raises(PowerLoss):
        patch.setattr(records, "write", dies)
        Ingestor(fleet.hub).take([envelope(1, report())])
    assert rows(fleet, SpoolCursor) == []
    assert upto(fleet, Ingestor(fleet.hub).take([envelope(1, report())])) == [("cam-1", 1)]


def test_commands_are_signed_with_rising_counters(fleet):
    keys = decode_keys(fleet.hub.command_key.target())
    for _ in range(2):
        send_command(fleet.hub, "cam-1", "diagnose", {})
    now = fleet.clock()
    commands = [
        verified_command(payload, keys, verify=signed_by, device="cam-1", counter=0, now=now)
        for _, _, payload in waiting(fleet.hub)
    ]
    first, second = [command.counter for command in commands]
    assert int(now * 1000) <= first < second  # they follow the clock, so that a restored hub's are above former ones


def test_the_commands_route(fleet):
    post, headers = fleet.client.post, fleet.auth()
    answer = post("/api/v1/devices/cam-1/commands", json={"kind": "diagnose"}, headers=headers)
    assert answer.status_code == 202 and answer.json()["id"].startswith("c-")
    assert post("/api/v1/devices/cam-1/commands", json={"kind": "explode"}, headers=headers).status_code == 400
    assert post("/api/v1/devices/nobody/commands", json={"kind": "diagnose"}, headers=headers).status_code == 404


@settings(max_examples=examples(30))  # each is a conversation of up to 400 rounds
@given(st.data())
def test_every_record_is_taken_once_whatever_the_network_does(data):
    """The device's real go-back-N against the hub's rule, over a channel that loses, repeats and reorders."""
    top = data.draw(st.integers(1, 30))
    sender, now, committed, taken = gobackn.Sender(first_timeout_s=1.0), 0.0, 0, []
    sender = gobackn.connected(sender, now)
    for _ in range(400):
        if committed == top and sender.committed == top:
            break
        room = min(gobackn.room(sender), top - sender.sent)
        flight = list(range(sender.sent + 1, sender.sent + 1 + room))
        if flight:
            sender = gobackn.sending(sender, flight[-1], now)
        kept = [seq for seq in flight for _ in range(data.draw(st.integers(0, 2)))]
        for seq in data.draw(st.permutations(kept)):
            result = step(committed, seq, 1)
            if result.accept:
                taken.append(seq)
            committed = result.committed
        if data.draw(st.booleans()):
            sender = gobackn.receipt(sender, committed, now)
        now += data.draw(st.floats(0.1, 3.0))
        sender = gobackn.tick(sender, now)
    assert taken == list(range(1, committed + 1))


def rollout_row(fleet: HubFixture) -> None:
    with fleet.hub.session() as session:
        session.add(
            RolloutRow(
                id="r1",
                model="digits",
                channel="stable",
                release=2,
                from_release=1,
                state="running",
                salt="s",
                created_at=0.0,
                updated_at=0.0,
            )
        )


def test_what_became_of_a_rollouts_requests_is_summed_over_the_attempt(fleet):
    rollout_row(fleet)
    counters = {"requests": 10, "edge": 5, "failed": 4, "refused": 3, "newly_refused": 2, "local_failed": 1}
    served = replace(window(rollout="r1", attempt=1, refusals={"name": 2, "body": 1}), counters=counters)
    other = replace(window(rollout="r-unheard-of", attempt=1), counters=counters)
    ingestor = Ingestor(fleet.hub)
    ingestor.take([envelope(number, body, "window") for number, body in enumerate((served, served, other), 1)])
    (row,) = rows(fleet, PairEvidence)
    assert (row.rollout, row.attempt, row.device_id) == ("r1", 1, "cam-1")
    assert (row.answered, row.local_failed, row.newly_refused) == (12, 2, 4)
    assert rows(fleet, WindowRow)[0].body["refusals"] == {"name": 2, "body": 1}


@pytest.mark.parametrize("other", [{"channel": "beta"}, {"model": "letters"}, {"release": 3}])
def test_only_what_the_rollout_brings_to_the_device_tells_how_it_serves(fleet, other: dict):
    rollout_row(fleet)
    with fleet.hub.session() as session:
        row = session.get(RolloutRow, "r1")
        for name, value in other.items():
            setattr(row, name, value)
        session.add(row)
    counters = {"requests": 10, "local_failed": 10}
    Ingestor(fleet.hub).take([envelope(1, replace(window(rollout="r1", attempt=1), counters=counters), "window")])
    assert len(rows(fleet, WindowRow)) == 1 and rows(fleet, PairEvidence) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"refusals": {"name": -1}},
        {"refusals": {"x" * 100: 1}},
        {"refusals": {str(number): 1 for number in range(100)}},
        {"rollout": "r\0"},
        {"attempt": -1},
    ],
)
def test_what_a_window_says_of_refusals_is_bounded(fleet, fields):
    Ingestor(fleet.hub).take([envelope(1, window(**fields), "window"), envelope(2, report())])
    assert rows(fleet, WindowRow) == [] and len(rows(fleet, SetAside)) == 1
    assert [row.model for row in rows(fleet, DeviceModel)] == ["digits"]


def test_an_untried_release_is_kept_as_such(fleet):
    ingestor = Ingestor(fleet.hub)
    ingestor.take([envelope(1, report("committed", active=2, untried=True))])
    assert rows(fleet, DeviceModel)[0].untried is True
    ingestor.take([envelope(2, report("committed", active=2))])
    assert rows(fleet, DeviceModel)[0].untried is False

"""The rollout engine on a real hub: database, signed channel, operator's API. The clock is turned by hand."""

from __future__ import annotations

from functools import partial

import pytest
from msgspec.structs import replace
from sqlalchemy.exc import OperationalError
from sqlmodel import select

from cloud_hub.rollouts import create_rollout
from cloud_hub.rollouts import facts as rollout_facts
from cloud_hub.rollouts.engine import RolloutEngine, carry_out, store
from cloud_hub.store import hearing, pairing
from cloud_hub.store.benchmarks import keep
from cloud_hub.store.benchmarks import row as measured_row
from cloud_hub.store.rollout_rows import plan_and_progress
from cloud_hub.store.tables import Device, DeviceModel, PairEvidence, RolloutEvent, RolloutRow
from fleet.protocol.channel import Audit, ModelEntry, decode_channel
from fleet.protocol.messages import Benchmark
from fleet.protocol.resolve import cohort_place, resolve
from fleet.rollouts import machine
from tests.support.hub import HubFixture
from tests.support.told import told

DEVICES = ("d-0", "d-1", "d-2")
GUARD = {"margin": 0.1, "min_pairs": 30}


def add_device(fixture: HubFixture, device_id: str, **fields: object) -> None:
    given = {"channel": "stable", **fields}
    with fixture.hub.session() as session:
        session.add(
            Device(
                id=device_id,
                public_key="-",
                key_fingerprint=device_id,
                certificate="-",
                certificate_serial="-",
                certificate_expires_at=0.0,
                enrolled_at=0.0,
                last_seen_at=fixture.clock(),
                **given,
            )
        )


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    """Three devices on release 1; releases 2 and 3 are published."""
    hub.model()
    for seed in range(3):
        hub.release(seed=seed)

    def first(channel):
        return replace(channel, models={"digits": ModelEntry(release=1, audit=Audit(auditor=1))})

    hub.hub.publisher.change_channel("stable", first, actor="test")
    for device_id in DEVICES:
        add_device(hub, device_id)
    return hub


def start(fleet: HubFixture, release: int = 2) -> str:
    row = create_rollout(
        fleet.hub, model="digits", release=release, channel="stable", stages=[34, 100], guard=GUARD, actor="test"
    )
    return row.id


def entry(fleet: HubFixture) -> ModelEntry:
    with fleet.hub.reading() as session:
        from cloud_hub.store.tables import ChannelRow

        row = session.get(ChannelRow, "stable")
        assert row is not None
        return decode_channel(row.document).models["digits"]


def cohort(fleet: HubFixture) -> list[str]:
    with fleet.hub.reading() as session:
        from cloud_hub.store.tables import ChannelRow

        channel = decode_channel(session.get(ChannelRow, "stable").document)
    return [d for d in DEVICES if resolve(channel, "digits", d, committed=1).rollout is not None]


def report(fleet: HubFixture, device_id: str, rollout: str, **fields: object) -> None:
    with fleet.hub.session() as session:
        row = session.get(DeviceModel, (device_id, "digits")) or DeviceModel(
            device_id=device_id, model="digits", state="idle"
        )
        row.rollout, row.attempt, row.at = rollout, 1, fleet.clock()
        for name, value in fields.items():
            setattr(row, name, value)
        session.add(row)


def pairs(fleet: HubFixture, device_id: str, rollout: str, **counts: int) -> None:
    with fleet.hub.session() as session:
        session.merge(PairEvidence(rollout=rollout, attempt=1, device_id=device_id, **counts))


def state(fleet: HubFixture, rollout: str) -> RolloutRow:
    with fleet.hub.reading() as session:
        row = session.get(RolloutRow, rollout)
        assert row is not None
        return row


def test_the_first_stage_is_one_device_and_is_published(fleet):
    rollout = start(fleet)
    assert entry(fleet).rollout.id == rollout
    assert len(cohort(fleet)) == 1


def test_a_good_release_goes_through_its_stages_and_becomes_the_default(fleet):
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    for _stage in range(2):
        for device_id in cohort(fleet):
            report(fleet, device_id, rollout, state="committed", active=2)
            pairs(fleet, device_id, rollout, both=200)
        fleet.clock.advance(5)
        engine.step()
    assert state(fleet, rollout).state == "finished"
    assert told(fleet.hub)[-1] == ("rollout.finished", rollout)
    assert entry(fleet).release == 2 and entry(fleet).rollout is None


def test_a_harmful_release_is_halted_on_paired_evidence_and_the_channel_returns(fleet):
    rollout, engine = start(fleet, 3), RolloutEngine(fleet.hub)
    (device_id,) = cohort(fleet)
    report(fleet, device_id, rollout, state="committed", active=3)
    pairs(fleet, device_id, rollout, both=80, only_old=20, only_new=0)
    engine.step()
    row = state(fleet, rollout)
    assert row.state == "halted" and "20" in row.reason
    assert entry(fleet).release == 1 and entry(fleet).rollout is None
    with fleet.hub.reading() as session:
        names = [e.event for e in session.exec(select(RolloutEvent).where(RolloutEvent.rollout == rollout))]
    assert names == ["started", "halted"]
    assert told(fleet.hub) == [("rollout.halted", rollout)]


def test_a_device_that_rolled_back_counts_against_the_release(fleet):
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    (device_id,) = cohort(fleet)
    report(fleet, device_id, rollout, state="rolled_back", target=2, active=1, reason="selftest-failed")
    engine.step()
    row = state(fleet, rollout)
    assert row.state == "halted" and "selftest-failed" in row.reason


def leave(fleet: HubFixture, device_id: str, how: str) -> None:
    """The device leaves the rollout, as an operator or the hub has it."""
    changes = {
        "pinned": {"pins": {"digits": 1}},
        "revoked": {"revoked_at": fleet.clock()},
        "moved": {"channel": "beta"},
        "relabelled": {"labels": {}},
    }[how]
    with fleet.hub.session() as session:
        row = session.get(Device, device_id)
        assert row is not None
        for name, value in changes.items():
            setattr(row, name, value)
        session.add(row)
    report(fleet, device_id, "", state="committed", active=1, reason="")  # it follows


@pytest.mark.parametrize("how", ["pinned", "revoked", "moved", "relabelled"])
def test_what_a_device_showed_stays_with_the_rollout_when_it_leaves(fleet, how: str):
    for device_id in DEVICES:
        with fleet.hub.session() as session:
            session.get(Device, device_id).labels = {"site": "berlin"}
    row = create_rollout(
        fleet.hub,
        model="digits",
        release=2,
        channel="stable",
        stages=[100],
        guard=GUARD,
        groups=["site=berlin"],
        actor="test",
    )
    engine = RolloutEngine(fleet.hub)
    first, second, third = DEVICES
    for device_id in (second, third):
        report(fleet, device_id, row.id, state="committed", active=2)
        pairs(fleet, device_id, row.id, both=200)
    report(fleet, first, row.id, state="rolled_back", target=2, active=1, reason="crash-loop")
    engine.step()
    assert state(fleet, row.id).state == "running", "one of three"
    leave(fleet, first, how)
    for _ in range(2):
        fleet.clock.advance(5)
        engine.step()
    verdict = state(fleet, row.id).progress["verdict"]
    assert (verdict["judgement"], verdict["cohort"]["failed"]) == ("not-enough-evidence", 1)
    assert "crash-loop" in verdict["reason"] and first in verdict["reason"]
    report(fleet, second, row.id, state="rolled_back", target=2, active=1, reason="crash-loop")
    engine.step()
    assert state(fleet, row.id).state == "halted"


def test_a_device_that_was_silent_stays_so_in_the_comparison_with_the_control(fleet):
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    (device_id,) = cohort(fleet)
    report(fleet, device_id, rollout, state="committed", active=2)
    fleet.clock.advance(301)
    engine.step()
    with fleet.hub.reading() as session:
        marks = {row.device_id: row.silent_at for row in session.exec(select(PairEvidence))}
    assert marks == dict.fromkeys(DEVICES, fleet.clock())
    verdict = state(fleet, rollout).progress["verdict"]
    assert verdict["judgement"] == "not-enough-evidence" and verdict["cohort"]["silent"] == 1


def test_devices_that_no_stage_has_held_say_nothing_whatever_they_report(fleet):
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    (device_id,) = cohort(fleet)
    report(fleet, device_id, rollout, state="committed", active=2)
    for enemy in set(DEVICES) - {device_id}:
        report(fleet, enemy, rollout, state="rolled_back", target=2, active=1, reason="crash-loop")
        pairs(fleet, enemy, rollout, only_old=500, local_failed=9)
    engine.step()
    row = state(fleet, rollout)
    assert row.state == "running", row.reason
    assert (row.progress["verdict"]["cohort"]["present"], row.progress["verdict"]["paired"]["pairs"]) == (1, 0)


def test_devices_that_join_later_belong_to_their_stage_at_once_and_hold_it_until_they_have_committed(fleet):
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    salt = state(fleet, rollout).salt
    places = {name: cohort_place(salt, name) for name in (f"new-{number}" for number in range(50))}
    early, late = (next(n for n, place in places.items() if (place < 340_000) is first) for first in (True, False))
    for device_id in cohort(fleet):
        report(fleet, device_id, rollout, state="committed", active=2)
        pairs(fleet, device_id, rollout, both=200)
    for name in (early, late):
        add_device(fleet, name)
    engine.step()
    row = state(fleet, rollout)
    assert (row.state, row.progress["stage"], row.progress["exposed"]) == ("running", 0, 2)
    assert row.progress["verdict"]["cohort"]["pending"] == 1
    report(fleet, early, rollout, state="committed", active=2)
    pairs(fleet, early, rollout, both=200)
    engine.step()
    assert state(fleet, rollout).progress["stage"] == 1
    engine.step()
    assert state(fleet, rollout).progress["exposed"] == len(DEVICES) + 2
    for device_id in (*DEVICES, early, late):
        report(fleet, device_id, rollout, state="committed", active=2)
        pairs(fleet, device_id, rollout, both=400)
    engine.step()
    assert state(fleet, rollout).state == "finished" and entry(fleet).release == 2


def test_a_rollout_says_what_its_verdict_still_takes(fleet):
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    (device_id,) = cohort(fleet)
    report(fleet, device_id, rollout, state="committed", active=2)
    pairs(fleet, device_id, rollout, both=20)
    fleet.clock.advance(3600)
    report(fleet, device_id, rollout, state="committed", active=2)
    engine.step()
    told = fleet.client.get(f"/api/v1/rollouts/{rollout}", headers=fleet.auth()).json()
    left = told["remaining"]
    assert left["missing"] == left["needed"] - 20 and left["per_hour"] == 20.0
    (listed,) = fleet.client.get("/api/v1/rollouts", headers=fleet.auth()).json()["items"]
    assert listed["id"] == rollout and not listed.get("remaining")


def test_rows_are_locked_in_the_order_of_ingest(fleet, monkeypatch):
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    (device_id,) = cohort(fleet)
    report(fleet, device_id, rollout, state="rolled_back", target=2, active=1, reason="crash-loop")
    taken = []
    for module, name in ((rollout_facts, "lock_name"), (pairing, "make_rows")):
        told = partial(lambda kept, name, *args: taken.append(name) or kept(*args), getattr(module, name), name)
        monkeypatch.setattr(module, name, told)
    engine.step()
    assert taken == ["lock_name", "make_rows"] and state(fleet, rollout).state == "halted"


def test_a_database_that_breaks_one_step_off_leaves_the_others_theirs(fleet, monkeypatch):
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)

    def broken(rollout: str) -> None:
        raise OperationalError("UPDATE", {}, Exception("deadlock detected"))

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_step_one", broken)
        engine.step()
    assert state(fleet, rollout).state == "running"


def test_an_order_for_a_stage_that_is_over_is_a_conflict(fleet):
    rollout = start(fleet)
    client, headers = fleet.client, fleet.auth()
    path, body = f"/api/v1/rollouts/{rollout}/promote", {"reason": "checked", "stage": 1}
    assert client.post(path, json=body, headers=headers).json()["stage"] == 2
    again = client.post(path, json=body, headers=headers)
    assert again.status_code == 409 and "at stage 2 by now" in again.json()["error"]
    assert client.post(path, json={**body, "stage": 0}, headers=headers).status_code == 409  # no shadow stage here
    assert client.post(path, json={**body, "stage": -1}, headers=headers).status_code == 400


def test_an_outage_of_the_hub_is_no_silence_of_its_devices(fleet):
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    (device_id,) = cohort(fleet)
    report(fleet, device_id, rollout, state="committed", active=2)
    with fleet.hub.session() as session:
        hearing.note(session, fleet.clock())
    fleet.clock.advance(4000)
    engine.step()
    with fleet.hub.reading() as session:
        assert not any(row.silent_at for row in session.exec(select(PairEvidence)))
    assert state(fleet, rollout).state == "running"
    with fleet.hub.session() as session:
        hearing.note(session, fleet.clock())
    for _ in range(6):
        fleet.clock.advance(55)
        with fleet.hub.session() as session:
            hearing.note(session, fleet.clock())
    engine.step()
    with fleet.hub.reading() as session:
        assert {row.device_id for row in session.exec(select(PairEvidence)) if row.silent_at} == set(DEVICES)


def test_without_evidence_nothing_moves(fleet):
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    (device_id,) = cohort(fleet)
    report(fleet, device_id, rollout, state="committed", active=2)
    engine.step()
    assert state(fleet, rollout).state == "running"
    assert state(fleet, rollout).progress["stage"] == 0
    fleet.clock.advance(3601)
    with fleet.hub.session() as session:
        session.get(Device, device_id).last_seen_at = fleet.clock()
    engine.step()
    assert state(fleet, rollout).state == "holding" and told(fleet.hub) == [("rollout.holding", rollout)]


def test_a_crash_between_row_and_channel_is_made_good_by_the_next_step(fleet):
    rollout = start(fleet)
    with fleet.hub.session() as session:
        row = session.get(RolloutRow, rollout)
        plan, progress = plan_and_progress(row)
        store(session, row, machine.apply(plan, progress, "abort", fleet.clock()), fleet.clock())
    assert entry(fleet).rollout is not None  # the process died before it published
    RolloutEngine(fleet.hub).step()
    assert entry(fleet).rollout is None
    version = fleet.hub.publisher.change_channel("stable", lambda c: c, actor="test").version
    carry_out(fleet.hub, rollout, actor="test")
    assert fleet.hub.publisher.change_channel("stable", lambda c: c, actor="test").version == version + 1


def test_a_plan_that_cannot_be_read_stops_only_itself_is_shown_and_can_be_aborted(fleet):
    rollout = start(fleet)
    newer = {"kind": "canary", "version": 9}
    with fleet.hub.session() as session:
        row = session.get(RolloutRow, rollout)
        row.plan = row.progress = newer
        session.add(row)
    client, headers = fleet.client, fleet.auth()
    RolloutEngine(fleet.hub).step()
    assert state(fleet, rollout).plan == state(fleet, rollout).progress == newer, "it stays for the hub that wrote it"
    (shown,) = client.get("/api/v1/rollouts", headers=headers).json()["items"]
    assert shown["state"] == "running" and "cannot read" in shown["reason"]
    assert client.get("/", headers=headers).status_code < 500
    refused = client.post(f"/api/v1/rollouts/{rollout}/pause", json={}, headers=headers)
    assert refused.status_code == 409 and "abort" in refused.json()["hint"]
    assert client.post(f"/api/v1/rollouts/{rollout}/abort", json={}, headers=headers).json()["state"] == "aborted"
    assert entry(fleet).rollout is None
    second, engine = start(fleet), RolloutEngine(fleet.hub)
    fleet.clock.advance(60)
    for device_id in cohort(fleet):
        report(fleet, device_id, second, state="committed", active=2)
        pairs(fleet, device_id, second, both=200)
    engine.step()
    assert state(fleet, second).progress["stage"] == 1


def test_promoting_by_hand_needs_a_reason_and_goes_into_history_and_audit_log(fleet):
    rollout = start(fleet)
    client, headers = fleet.client, fleet.auth()
    path = f"/api/v1/rollouts/{rollout}/promote"
    assert client.post(path, json={"reason": " "}, headers=headers).status_code == 400
    assert client.post(path, json={"reason": "checked"}, headers=headers).json()["stage"] == 2
    assert client.post(path, json={"reason": "checked"}, headers=headers).json()["state"] == "finished"
    assert entry(fleet).release == 2
    events = client.get(f"/api/v1/rollouts/{rollout}/events", headers=headers).json()["items"]
    assert [event["event"] for event in events] == ["started", "promoted", "advanced", "promoted", "finished"]
    log = client.get("/api/v1/audit", headers=headers).json()["items"]
    assert sum(item["action"] == "rollout.promote" and item["detail"]["reason"] == "checked" for item in log) == 2


def test_only_one_replica_acts(fleet):
    rollout = start(fleet, 3)
    (device_id,) = cohort(fleet)
    first, second = RolloutEngine(fleet.hub), RolloutEngine(fleet.hub)
    first.step()
    pairs(fleet, device_id, rollout, both=80, only_old=20)
    second.step()
    assert state(fleet, rollout).state == "running"
    fleet.clock.advance(31)
    second.step()
    assert state(fleet, rollout).state == "halted"


def test_the_operators_api(fleet):
    client, headers = fleet.client, fleet.auth()
    body = {"model": "digits", "release": 2, "channel": "stable", "stages": [34, 100], "guard": GUARD}
    created = client.post("/api/v1/rollouts", json=body, headers=headers)
    assert created.status_code == 201, created.text
    rollout = created.json()["id"]
    assert created.json()["cannot_follow"] == 0
    again = client.post("/api/v1/rollouts", json=body, headers=headers)
    assert again.status_code == 409 and "live" in again.json()["error"]
    paused = client.post(f"/api/v1/rollouts/{rollout}/pause", json={"reason": "lunch"}, headers=headers)
    assert paused.json()["state"] == "paused" and paused.json()["reason"] == "lunch"
    assert client.post(f"/api/v1/rollouts/{rollout}/resume", json={}, headers=headers).json()["state"] == "running"
    aborted = client.post(f"/api/v1/rollouts/{rollout}/abort", json={}, headers=headers)
    assert aborted.json()["state"] == "aborted" and entry(fleet).rollout is None
    late = client.post(f"/api/v1/rollouts/{rollout}/pause", json={}, headers=headers)
    assert late.status_code == 409
    events = client.get(f"/api/v1/rollouts/{rollout}/events", headers=headers).json()["items"]
    assert [event["event"] for event in events] == ["started", "paused", "resumed", "aborted"]
    assert client.get("/api/v1/rollouts/r-none", headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({"release": 9}, 404, "no release 9"),
        ({"release": 1}, 400, "already runs"),
        ({"stages": [50]}, 400, "stages"),
        ({"guard": {"alhpa": 1}}, 400, "alhpa"),
        ({"channel": "beta"}, 404, "beta"),
        ({"model": "nothing"}, 404, "nothing"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(fleet, changes, status, word):
    body = {"model": "digits", "release": 2, "channel": "stable", "stages": [34, 100], **changes}
    answer = fleet.client.post("/api/v1/rollouts", json=body, headers=fleet.auth())
    assert answer.status_code == status, answer.text
    assert word in answer.json()["error"]


def test_a_rollout_with_a_bounded_p95_asks_for_figures_and_halts_on_slow_ones(fleet):
    row = create_rollout(
        fleet.hub,
        model="digits",
        release=2,
        channel="stable",
        stages=[34, 100],
        actor="test",
        guard={"max_p95_us": 100.0, "evidence": "install"},
    )
    engine = RolloutEngine(fleet.hub)
    assert entry(fleet).rollout.measure is True
    (device_id,) = cohort(fleet)
    report(fleet, device_id, row.id, state="committed", active=2)
    engine.step()
    assert state(fleet, row.id).state == "running" and entry(fleet).rollout.share_ppm < 500_000

    def measure(release: int, p95_us: float, device_id: str = device_id) -> None:
        figures = Benchmark(
            model="digits", release=release, variant="v", runtime="r", rounds=9, p50_us=1.0, p95_us=p95_us
        )
        with fleet.hub.session() as session:
            keep(session, [measured_row(device_id, figures, fleet.clock())])

    measure(1, 1.0)  # of another release
    engine.step()
    assert entry(fleet).rollout.share_ppm < 500_000
    measure(2, 99.0)
    engine.step()
    assert entry(fleet).rollout.share_ppm == 1_000_000
    measure(2, 101.0)
    engine.step()
    assert state(fleet, row.id).state == "running", "one device of three does not decide"
    measure(2, 101.0, next(other for other in DEVICES if other != device_id))
    engine.step()
    assert state(fleet, row.id).state == "halted" and "101 µs" in state(fleet, row.id).reason


def test_a_rollout_without_a_bound_asks_for_no_figures(fleet):
    start(fleet)
    assert entry(fleet).rollout.measure is False

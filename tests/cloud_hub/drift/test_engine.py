"""The drift engine on a real hub: windows in, monitors, alarms and their consequences out."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from msgspec.structs import replace
from sqlmodel import select

from cloud_hub.drift import scope
from cloud_hub.drift.basis import basis_of_encoder, encode_basis
from cloud_hub.drift.engine import DriftEngine
from cloud_hub.drift.stream_bytes import decode, encode
from cloud_hub.store.tables import (
    Alarm,
    AlarmResponse,
    AuditEntry,
    Device,
    DeviceModel,
    DriftMonitor,
    DriftStream,
    InputMonitor,
    Job,
    Model,
    WindowRow,
)
from fleet.api.jobs import RetrainOptions
from fleet.api.rollouts import RolloutOptions
from fleet.protocol.channel import ModelEntry
from fleet.protocol.drift_encoder import encode_encoder, fit_encoder, sketch_id
from fleet.protocol.manifest import Blob, Lineage, SketchRef, decode_manifest, encode_manifest
from fleet.protocol.sketch import encode_sketch, sketch
from tests.support.hub import HubFixture
from tests.support.manifests import small_release
from tests.support.told import told

SKETCH = "s" * 64
N, FEATURES = 50, 64


def publish(fixture: HubFixture, snapshot: str, seed: int) -> int:
    data, blobs = small_release(seed=seed, sketch_id=SKETCH)
    manifest = replace(decode_manifest(data), lineage=Lineage(snapshot=snapshot))
    for sha256, blob in blobs.items():
        fixture.hub.objects.put_new(f"blobs/{sha256}", blob)
    return fixture.hub.publisher.publish_release("digits", encode_manifest(manifest), actor="test").number


def promote(fixture: HubFixture, release: int) -> None:
    def change(channel):
        return replace(channel, models={"digits": ModelEntry(release=release)})

    fixture.hub.publisher.change_channel("stable", change, actor="test")


def add_windows(
    fixture: HubFixture, count: int, *, shifted: bool, seed: int = 0, release: int = 1, devices: int = 3, only: str = ""
) -> None:
    """`count` windows of the devices in turn, a minute each, of unit feature vectors around one direction, or around
    another (on the device `only`, where it is given)."""
    random = np.random.default_rng([seed, shifted])
    with fixture.hub.session() as session:
        for number in range(count):
            centre = np.zeros(FEATURES)
            centre[1 if shifted and only in ("", f"d-{number % devices}") else 0] = 1.0
            rows = centre + 0.05 * random.standard_normal((N, FEATURES))
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            fixture.clock.advance(60)
            body = {"classes": [N - 10, 10] if shifted else [10, N - 10], "confidence": [0] * 10 + [N] + [0] * 9}
            session.add(
                WindowRow(
                    device_id=f"d-{number % devices}",
                    spool=f"s{seed}{shifted}{release}{only}",
                    seq=number + 1,
                    model="digits",
                    release=release,
                    started_at=fixture.clock() - 60,
                    ended_at=fixture.clock(),
                    body=body,
                    sketch_id=SKETCH,
                    sketch_count=N,
                    sketch=rows.sum(axis=0).astype("<f4").tobytes(),
                )
            )


def device(name: str) -> Device:
    return Device(
        id=name,
        public_key="-",
        key_fingerprint=name,
        certificate="-",
        certificate_serial="-",
        certificate_expires_at=0.0,
        channel="stable",
        enrolled_at=0.0,
    )


@pytest.fixture
def watched(hub: HubFixture) -> HubFixture:
    hub.model()
    with hub.hub.session() as session:
        owner = session.get(Model, "digits")
        owner.recipe = "examples.digits.recipe"
        owner.policy = {"drift": {"baseline": "30m", "baseline_windows": 9, "retrain": "on-alarm"}}
        session.add(owner)
        for number in range(3):
            session.add(device(f"d-{number}"))
            session.flush()
            session.add(DeviceModel(device_id=f"d-{number}", model="digits", state="committed", active=1))
    promote(hub, publish(hub, "", seed=1))
    return hub


def serve(fixture: HubFixture, release: int, *names: str) -> None:
    """Let devices say that they serve a release."""
    with fixture.hub.session() as session:
        for row in session.exec(select(DeviceModel)):
            row.active = release if not names or row.device_id in names else row.active


def monitor(fixture: HubFixture, release: int = 1) -> DriftMonitor:
    with fixture.hub.reading() as session:
        row = session.get(DriftMonitor, ("digits", release))
        assert row is not None
        return row


def test_windows_that_are_not_settled_yet_wait_for_the_next_look(watched: HubFixture, monkeypatch) -> None:
    """One of a lower number may still be committed: none of the monitors may be beyond it then."""
    add_windows(watched, 30, shifted=False)
    engine = DriftEngine(watched.hub)
    last = {}
    for upto in (12, 30):
        monkeypatch.setattr("cloud_hub.drift.engine.settled", lambda _engine, upto=upto: upto)
        engine.look()
        with watched.hub.reading() as session:
            rows = [session.get(kind, ("digits", 1)) for kind in (DriftMonitor, InputMonitor)]
            last[upto] = [row.last_window for row in rows if row is not None]
    assert last == {12: [12, 12], 30: [30, 30]}


def alarms(fixture: HubFixture) -> list[Alarm]:
    with fixture.hub.reading() as session:
        return list(session.exec(select(Alarm)))


def streams(fixture: HubFixture, kind: str = "device", release: int = 1) -> dict[str, DriftStream]:
    rows = select(DriftStream).where(DriftStream.kind == kind, DriftStream.release == release)
    with fixture.hub.reading() as session:
        return {row.name: row for row in session.exec(rows)}


def test_the_baseline_is_a_period_and_the_test_provisional_until_it_is_over(watched):
    engine = DriftEngine(watched.hub)
    engine.step()
    assert monitor(watched).state == "waiting"
    add_windows(watched, 27, shifted=False)
    engine.step()
    assert monitor(watched).state == "baseline"
    assert {row.state for row in streams(watched).values()} == {"provisional"}
    add_windows(watched, 90, shifted=False, seed=1)
    engine.step()
    assert monitor(watched).state == "watching"
    assert {row.state for row in streams(watched).values()} == {"steady"}
    assert alarms(watched) == []


@pytest.mark.parametrize("begin", [0, 120], ids=["in the baseline", "while it is watched"])
def test_sketches_of_another_size_from_one_device_end_no_watch(watched, begin):
    engine = DriftEngine(watched.hub)
    add_windows(watched, begin, shifted=False)
    engine.step()
    with watched.hub.session() as session:
        for number in range(4):
            session.add(
                WindowRow(
                    device_id="d-0",
                    spool="odd",
                    seq=number + 1,
                    model="digits",
                    release=1,
                    started_at=watched.clock(),
                    ended_at=watched.clock(),
                    body={},
                    sketch_id=SKETCH,
                    sketch_count=N,
                    sketch=b"\0" * 8,
                )
            )
    add_windows(watched, 120, shifted=False, seed=1)
    engine.step()
    assert monitor(watched).state == "watching"
    add_windows(watched, 60, shifted=True)
    engine.step()
    assert len(alarms(watched)) == 1


def test_a_shift_raises_one_alarm_that_explains_itself_and_asks_for_samples_and_a_retrain(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    engine.step()
    began = watched.clock()
    add_windows(watched, 60, shifted=True)
    engine.step()
    engine.step()
    (alarm,) = alarms(watched)
    assert alarm.status == "open" and "3 of 3 devices" in alarm.detail["reason"]
    assert told(watched.hub, "alarm") == [("alarm.raised", alarm.model)]
    assert alarm.detail["kind"] == "inputs" and alarm.detail["devices"] == ["d-0", "d-1", "d-2"]
    assert abs(alarm.detail["since"] - began) < 600 and 0.9 < alarm.detail["distance"] < 1.5
    assert not alarm.detail["provisional"]
    assert alarm.detail["classes"][0]["before"] != alarm.detail["classes"][0]["after"]
    assert monitor(watched).state == "alarmed"
    with watched.hub.reading() as session:
        assert session.exec(select(Job)).all() == []  # labels of the shift are awaited
        response = session.get_one(AlarmResponse, alarm.id)
    assert response.state == "collecting" and response.document["asked"] == 3
    with watched.hub.session() as session:
        session.get_one(AlarmResponse, alarm.id).document = {**response.document, "labels": 0}
    engine.step()
    with watched.hub.reading() as session:
        (job,) = session.exec(select(Job)).all()
    assert (job.kind, job.model, job.state) == ("retrain", "digits", "queued")
    # what the worker will read
    assert RetrainOptions.model_validate(job.payload) == RetrainOptions(channel="stable", rollout=RolloutOptions())


def test_an_alarm_names_the_one_device_that_moved_and_later_the_others(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    add_windows(watched, 36, shifted=True, only="d-1")
    engine.step()
    (alarm,) = alarms(watched)
    assert alarm.detail["devices"] == ["d-1"] and not alarm.detail["fleet"] and "(d-1)" in alarm.detail["reason"]
    assert (alarm.detail["others"], alarm.detail["others_moved"]) == (2, 0) and not alarm.detail["season"]
    assert "of 2 other devices 0 moved as well" in alarm.detail["reason"]
    assert streams(watched)["d-1"].alarm == alarm.id
    add_windows(watched, 60, shifted=True, seed=2)
    engine.step()
    (alarm,) = alarms(watched)
    assert alarm.detail["devices"] == ["d-0", "d-1", "d-2"]


def test_a_far_shift_before_the_baseline_is_steady_is_said_to_be_provisional(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 60, shifted=False)
    add_windows(watched, 60, shifted=True)
    engine.step()
    (alarm,) = alarms(watched)
    assert alarm.detail["provisional"] and "provisional" in alarm.detail["reason"]


def test_an_alarm_of_a_model_without_a_recipe_says_why_it_starts_no_retrain(watched):
    with watched.hub.session() as session:
        session.get(Model, "digits").recipe = ""
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    add_windows(watched, 60, shifted=True)
    engine.step()
    with watched.hub.reading() as session:
        assert session.exec(select(Job)).all() == []
        refused = session.exec(select(AuditEntry).where(AuditEntry.action == "retrain.refused")).one()
    assert "no recipe" in refused.detail["reason"]


def test_windows_are_counted_once_whatever_the_steps(watched):
    add_windows(watched, 30, shifted=False)
    DriftEngine(watched.hub).step()
    watched.clock.advance(120)
    DriftEngine(watched.hub).step()
    assert [row.windows for row in streams(watched).values()] == [10, 10, 10]


def test_a_step_at_a_time_finds_what_one_large_step_finds(watched):
    engine = DriftEngine(watched.hub)
    for number in range(6):
        add_windows(watched, 21, shifted=False, seed=number)
        engine.step()
    for number in range(6):
        add_windows(watched, 9, shifted=True, seed=number)
        engine.step()
    (alarm,) = alarms(watched)
    assert alarm.detail["devices"] == ["d-0", "d-1", "d-2"]


def test_any_promotion_makes_new_baselines_from_windows_of_its_own_release(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    add_windows(watched, 60, shifted=True)
    engine.step()
    assert monitor(watched).state == "alarmed"
    promote(watched, publish(watched, "", seed=3))
    serve(watched, 2)
    add_windows(watched, 30, shifted=False, seed=5)  # of the release before: never counted
    engine.step()
    assert monitor(watched, 2).state == "waiting" and streams(watched, release=2) == {}
    assert [alarm.status for alarm in alarms(watched)] == ["open"], "a device may come back to it"
    watched.clock.advance(scope.PATIENCE_S)
    engine.step()
    assert streams(watched) == {} and [alarm.status for alarm in alarms(watched)] == ["closed"]
    add_windows(watched, 180, shifted=True, seed=7, release=2)
    engine.step()
    assert monitor(watched, 2).state == "watching" and len(streams(watched, release=2)) == 3
    assert [alarm.status for alarm in alarms(watched)] == ["closed"]


def test_a_device_that_joins_later_borrows_and_then_has_a_baseline_of_its_own(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    with watched.hub.session() as session:
        session.add(device("d-3"))
    add_windows(watched, 8, shifted=False, seed=3, devices=4)
    engine.step()
    late = streams(watched)["d-3"]
    assert (late.windows, late.state) == (2, "provisional")
    add_windows(watched, 160, shifted=False, seed=4, devices=4)
    engine.step()
    assert streams(watched)["d-3"].state == "steady" and alarms(watched) == []


@pytest.mark.parametrize("clock", [0.0, 9e12], ids=["in 1970", "far ahead"])
def test_a_device_with_a_wrong_clock_is_watched_by_the_hubs(watched, clock):
    engine = DriftEngine(watched.hub)
    with watched.hub.session() as session:
        session.get_one(Device, "d-0").enrolled_at = watched.clock() - 10
    for number in range(6):
        add_windows(watched, 20, shifted=False, seed=number)
        with watched.hub.session() as session:
            for row in session.exec(select(WindowRow).where(WindowRow.device_id == "d-0")):
                row.started_at, row.ended_at = clock, clock + 60
        engine.step()
    row = streams(watched)["d-0"]
    assert watched.clock() - 110 * 60 <= row.began_at < row.last_at <= watched.clock()
    assert alarms(watched) == []


def test_a_group_of_devices_with_one_label_is_watched_beside_the_fleet(watched):
    with watched.hub.session() as session:
        for number in range(8):
            row = device(f"d-{number}") if number > 2 else session.get_one(Device, f"d-{number}")
            row.labels = {"site": "berlin" if number < 4 else "kyoto"}
            session.add(row)
            session.flush()
            session.merge(DeviceModel(device_id=row.id, model="digits", state="committed", active=1))
    engine = DriftEngine(watched.hub)
    add_windows(watched, 400, shifted=False, devices=8)
    engine.step()
    assert set(streams(watched, "group")) == {"site=berlin", "site=kyoto"}
    assert {row.state for row in streams(watched, "group").values()} == {"steady"}


def test_an_operator_closes_an_alarm_and_the_test_begins_from_nothing(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    add_windows(watched, 40, shifted=True)
    engine.step()
    (alarm,) = alarms(watched)
    headers = watched.auth()
    assert watched.client.post(f"/api/v1/alarms/{alarm.id}/close", headers=headers).json()["status"] == "closed"
    (shown,) = watched.client.get("/api/v1/drift?model=digits", headers=headers).json()["items"]
    assert shown["state"] == "watching" and shown["evidence"] == 0.0
    assert watched.client.post("/api/v1/alarms/99/close", headers=headers).status_code == 404


@pytest.mark.parametrize("usual", [False, True])
def test_what_came_while_an_alarm_was_open_joins_the_week_only_as_usual(watched, usual):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    add_windows(watched, 40, shifted=True)
    engine.step()
    add_windows(watched, 40, shifted=True, seed=1)
    engine.step()
    (alarm,) = alarms(watched)
    before = week_of(watched, "d-1")
    path, headers = f"/api/v1/alarms/{alarm.id}/close", watched.auth()
    assert watched.client.post(path, params={"usual": usual}, headers=headers).status_code == 200
    stream = decode(streams(watched)["d-1"].body)
    assert (week_of(watched, "d-1") > before) is usual and stream.aside is None


def test_only_what_lies_elsewhere_can_be_usual_at_its_hours(watched):
    with watched.hub.session() as session:
        session.add(Alarm(model="digits", release=1, at=0.0, status="open", detail={"kind": "meaning"}))
    (alarm,) = alarms(watched)
    answer = watched.client.post(f"/api/v1/alarms/{alarm.id}/close?usual=true", headers=watched.auth())
    assert answer.status_code == 400 and alarms(watched)[0].status == "open"


def week_of(fixture: HubFixture, name: str) -> float:
    """Windows that are in a device's week, with its open visit."""
    week = decode(streams(fixture)[name].body).week
    assert week is not None
    return float(week.windows + week.open[1])


def test_an_operator_begins_baselines_anew(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    add_windows(watched, 40, shifted=True, only="d-1")
    engine.step()
    headers, path = watched.auth(), "/api/v1/drift/digits"
    shown = watched.client.get(f"{path}/streams", params={"kind": "device"}, headers=headers).json()["items"]
    assert (shown[0]["name"], shown[0]["state"]) == ("d-1", "steady") and shown[0]["alarm"]
    assert shown[0]["baseline"] == "period" and shown[0]["began_at"] < shown[0]["based_at"] < shown[0]["since"]
    answer = watched.client.post(f"{path}/rebaseline", json={"devices": ["d-1"]}, headers=headers)
    assert answer.json() == {"model": "digits", "streams": 1, "releases": [1]}
    assert watched.client.post(f"{path}/rebaseline", json={"devices": ["who"]}, headers=headers).status_code == 404
    add_windows(watched, 150, shifted=True, seed=9, only="d-1")
    engine.step()
    assert streams(watched)["d-1"].state == "steady" and not streams(watched)["d-1"].alarm
    assert watched.client.post(f"{path}/rebaseline", json={}, headers=headers).json()["streams"] == 4
    assert monitor(watched).state == "waiting" and alarms(watched)[0].status == "closed"
    with watched.hub.reading() as session:
        entries = session.exec(select(AuditEntry).where(AuditEntry.action == "drift.rebaseline")).all()
    assert len(entries) == 2


def test_a_policy_renews_baselines(watched):
    engine = DriftEngine(watched.hub)
    with watched.hub.session() as session:
        session.get_one(Model, "digits").policy = {
            "drift": {"baseline": "30m", "baseline_windows": 9, "refresh": "15h"}
        }
    add_windows(watched, 120, shifted=False)
    engine.step()
    assert monitor(watched).state == "watching"
    watched.clock.advance(15 * 3600)
    engine.step()
    assert streams(watched) == {}
    with watched.hub.reading() as session:
        assert session.exec(select(AuditEntry).where(AuditEntry.action == "drift.rebaseline")).one().actor == "policy"


def test_the_encoder_of_a_real_release_says_what_is_looked_at(hub):
    """Inputs that a device's sketcher summed up, from the encoder in the release's own blobs."""
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 16)).astype(np.float32)
    encoder = fit_encoder(x, tensor="x", dims=8, features=128)
    blobs = {"encoder": encode_encoder(encoder), "reference": encode_sketch(sketch(encoder, x))}
    for data in blobs.values():
        hub.hub.objects.put_new(f"blobs/{hashlib.sha256(data).hexdigest()}", data)
    refs = {name: Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for name, data in blobs.items()}
    hub.model()
    with hub.hub.session() as session:
        session.get_one(Model, "digits").policy = {"drift": {"baseline": "30m", "baseline_windows": 9}}
        session.add(device("d-0")), session.add(device("d-1"))
    document, others = small_release(seed=1)
    manifest = replace(decode_manifest(document), sketch=SketchRef(sketch_id=sketch_id(encoder), margin=0.02, **refs))
    for name, data in others.items():
        hub.hub.objects.put_new(f"blobs/{name}", data)
    promote(hub, hub.hub.publisher.publish_release("digits", encode_manifest(manifest), actor="test").number)
    engine = DriftEngine(hub.hub)
    for number in range(60):
        with hub.hub.session() as session:
            for place in range(2):
                shift = 0.8 if number >= 45 and place == 1 else 0.0
                data = sketch(encoder, random.normal(size=(N, 16)).astype(np.float32) + np.float32(shift))
                session.add(
                    WindowRow(
                        device_id=f"d-{place}",
                        spool="s",
                        seq=number + 1,
                        model="digits",
                        release=1,
                        body={},
                        started_at=hub.clock(),
                        ended_at=hub.clock() + 60,
                        sketch_id=data.sketch_id,
                        sketch_count=data.count,
                        sketch=data.sums,
                    )
                )
        hub.clock.advance(60)
    engine.step()
    with hub.hub.reading() as session:
        assert session.get_one(DriftMonitor, ("digits", 1)).basis == encode_basis(basis_of_encoder(encoder))
    (alarm,) = alarms(hub)
    assert alarm.detail["devices"] == ["d-1"] and not alarm.detail["provisional"]


def test_a_group_begins_with_its_first_slot_though_the_hub_looks_before_that_is_over(watched):
    """Its baseline lasts as long as a device's, and it alarms as seldom: both are counted from its beginning."""
    watched.clock.advance(120)  # the three windows of each look are in one slot
    engine, began = DriftEngine(watched.hub), watched.clock()
    states = []
    for number in range(40):
        add_windows(watched, 3, shifted=False, seed=number)  # three minutes, which are a window of the fleet
        engine.step()
        fleet = streams(watched, "fleet").get("")
        states += [(watched.clock() - began, fleet.state)] if fleet is not None else []
    assert fleet is not None and fleet.began_at > began
    assert {state for at, state in states if at < 1800} <= {"waiting", "provisional"}
    assert fleet.state == "steady"
    per_day = fleet.windows / max((fleet.last_at - fleet.began_at) / 86_400, 1.0)
    assert fleet.alarm_at == pytest.approx(np.log(2000 * per_day * 3))


def test_a_group_of_which_an_earlier_version_lost_the_beginning_begins_anew(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    engine.step()
    with watched.hub.session() as session:
        row = session.get_one(DriftStream, ("digits", 1, "fleet", ""))
        stream = decode(row.body)
        members, stream.began = stream.members, 0.0
        row.body = encode(stream)
    upgraded = watched.clock()
    add_windows(watched, 18, shifted=False, seed=1)
    engine.step()
    fleet = decode(streams(watched, "fleet")[""].body)
    assert upgraded < fleet.began <= watched.clock() and fleet.windows < 9
    assert fleet.members == members

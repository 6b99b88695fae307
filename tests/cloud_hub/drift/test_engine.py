"""The drift engine on a real hub: windows in, monitors, alarms and their consequences out."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace
from sqlmodel import select

from cloud_hub.drift.engine import DriftEngine
from cloud_hub.store.tables import (
    Alarm,
    AlarmResponse,
    AuditEntry,
    Device,
    DeviceModel,
    DriftMonitor,
    Job,
    Model,
    WindowRow,
)
from fleet.api.jobs import RetrainOptions
from fleet.api.rollouts import RolloutOptions
from fleet.protocol.channel import ModelEntry
from fleet.protocol.manifest import Lineage, decode_manifest, encode_manifest
from tests.support.hub import HubFixture
from tests.support.manifests import small_release

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


def add_windows(fixture: HubFixture, count: int, *, shifted: bool, seed: int = 0) -> None:
    """`count` windows of unit feature vectors around one direction, or around another."""
    random = np.random.default_rng([seed, shifted])
    centre = np.zeros(FEATURES)
    centre[1 if shifted else 0] = 1.0
    with fixture.hub.session() as session:
        for number in range(count):
            rows = centre + 0.05 * random.standard_normal((N, FEATURES))
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            fixture.clock.advance(60)
            body = {"classes": [N - 10, 10] if shifted else [10, N - 10], "confidence": [0] * 10 + [N] + [0] * 9}
            session.add(
                WindowRow(
                    device_id=f"d-{number % 3}", spool=f"s{seed}{shifted}", seq=number + 1, model="digits", release=1,
                    started_at=fixture.clock() - 60, ended_at=fixture.clock(), body=body, sketch_id=SKETCH,
                    sketch_count=N, sketch=rows.sum(axis=0).astype("<f4").tobytes(),
                )
            )  # fmt: skip


@pytest.fixture
def watched(hub: HubFixture) -> HubFixture:
    hub.model()
    with hub.hub.session() as session:
        owner = session.get(Model, "digits")
        owner.recipe = "examples.digits.recipe"
        owner.policy = {"drift": {"baseline_windows": 9, "retrain": "on-alarm"}}
        session.add(owner)
        for number in range(3):
            session.add(
                Device(
                    id=f"d-{number}", public_key="-", key_fingerprint=str(number), certificate="-",
                    certificate_serial="-", certificate_expires_at=0.0, channel="stable", enrolled_at=0.0,
                )
            )  # fmt: skip
            session.flush()
            session.add(DeviceModel(device_id=f"d-{number}", model="digits", state="committed", active=1))
    promote(hub, publish(hub, "", seed=1))
    return hub


def monitor(fixture: HubFixture) -> DriftMonitor:
    with fixture.hub.reading() as session:
        row = session.get(DriftMonitor, "digits")
        assert row is not None
        return row


def alarms(fixture: HubFixture) -> list[Alarm]:
    with fixture.hub.reading() as session:
        return list(session.exec(select(Alarm)))


def test_no_alarm_on_the_traffic_of_the_baseline(watched):
    engine = DriftEngine(watched.hub)
    engine.step()
    assert monitor(watched).state == "waiting"
    add_windows(watched, 60, shifted=False)
    engine.step()
    assert monitor(watched).state == "watching"
    assert alarms(watched) == []


@pytest.mark.parametrize("begin", [0, 30], ids=["in the baseline", "while it is watched"])
def test_sketches_of_another_size_from_one_device_end_no_watch(watched, begin):
    engine = DriftEngine(watched.hub)
    add_windows(watched, begin, shifted=False)
    engine.step()
    with watched.hub.session() as session:
        for number in range(4):
            session.add(
                WindowRow(
                    device_id="d-0", spool="odd", seq=number + 1, model="digits", release=1, started_at=watched.clock(),
                    ended_at=watched.clock(), body={}, sketch_id=SKETCH, sketch_count=N, sketch=b"\0" * 8,
                )
            )  # fmt: skip
    add_windows(watched, 30, shifted=False, seed=1)
    engine.step()
    assert monitor(watched).state == "watching"
    add_windows(watched, 60, shifted=True)
    engine.step()
    assert len(alarms(watched)) == 1


def test_a_shift_raises_one_alarm_that_explains_itself_and_asks_for_samples_and_a_retrain(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 30, shifted=False)
    engine.step()
    add_windows(watched, 60, shifted=True)
    engine.step()
    engine.step()
    (alarm,) = alarms(watched)
    assert alarm.status == "open" and "3 of 3 devices" in alarm.detail["reason"]
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


def test_an_alarm_of_a_model_without_a_recipe_says_why_it_starts_no_retrain(watched):
    with watched.hub.session() as session:
        session.get(Model, "digits").recipe = ""
    engine = DriftEngine(watched.hub)
    add_windows(watched, 30, shifted=False)
    add_windows(watched, 60, shifted=True)
    engine.step()
    with watched.hub.reading() as session:
        assert session.exec(select(Job)).all() == []
        refused = session.exec(select(AuditEntry).where(AuditEntry.action == "retrain.refused")).one()
    assert "no recipe" in refused.detail["reason"]


def test_windows_are_counted_once_whatever_the_steps(watched):
    add_windows(watched, 30, shifted=False)
    DriftEngine(watched.hub).step()
    counted = monitor(watched).document["watch"]["detector"]["windows"]
    watched.clock.advance(120)
    DriftEngine(watched.hub).step()
    assert counted == 21 == monitor(watched).document["watch"]["detector"]["windows"]


def test_a_release_of_the_same_epoch_keeps_the_baseline(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 12, shifted=False)
    engine.step()
    baseline = monitor(watched).document["baseline"]
    promote(watched, publish(watched, "", seed=2))
    engine.step()
    assert monitor(watched).document["baseline"] == baseline
    assert monitor(watched).release == 2


def test_a_retrained_release_makes_a_new_baseline_and_closes_the_alarm(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 20, shifted=False)
    add_windows(watched, 40, shifted=True)
    engine.step()
    assert monitor(watched).state == "alarmed"
    promote(watched, publish(watched, "snapshot-1", seed=3))
    engine.step()
    assert monitor(watched).state == "waiting"
    add_windows(watched, 60, shifted=True, seed=7)
    engine.step()
    assert monitor(watched).state == "watching"
    assert [alarm.status for alarm in alarms(watched)] == ["closed"]


def test_an_operator_closes_an_alarm_and_the_test_begins_from_nothing(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 20, shifted=False)
    add_windows(watched, 40, shifted=True)
    engine.step()
    (alarm,) = alarms(watched)
    headers = watched.auth()
    assert watched.client.post(f"/api/v1/alarms/{alarm.id}/close", headers=headers).json()["status"] == "closed"
    (shown,) = watched.client.get("/api/v1/drift?model=digits", headers=headers).json()["items"]
    assert shown["state"] == "watching" and shown["evidence"] is None
    assert watched.client.post("/api/v1/alarms/99/close", headers=headers).status_code == 404

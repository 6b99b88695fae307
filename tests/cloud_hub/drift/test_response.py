"""From an alarm to samples, labels and a retrain by itself; what is missing is said, and nothing starts too early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sqlmodel import select

from cloud_hub.drift.response import follow, respond
from cloud_hub.samples import store
from cloud_hub.store.tables import (
    Alarm,
    AlarmResponse,
    AuditEntry,
    Device,
    DeviceModel,
    Job,
    Model,
    OutboxCommand,
    SampleRow,
)
from fleet.protocol.manifest import Tensor
from fleet.protocol.messages import Sample
from fleet.protocol.task import NO_CLASS, TaskSpec
from fleet.protocol.tensors import to_array
from tests.cloud_hub.drift.test_engine import promote, publish
from tests.support.hub import HubFixture

DAY_S = 86_400.0
POLICY = {"retrain": "on-alarm", "retrain_labels": 6, "retrain_days": 2.0, "samples": 50, "sample_devices": 3}


def device_row(name: str) -> Device:
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
def fleet(hub: HubFixture) -> HubFixture:
    hub.model()
    with hub.hub.session() as session:
        owner = session.get_one(Model, "digits")
        owner.recipe, owner.policy = "examples.digits.recipe", {"drift": POLICY}
        for number in range(5):
            session.add(device_row(f"d-{number}"))
            session.flush()
            session.add(DeviceModel(device_id=f"d-{number}", model="digits", state="committed", active=1))
    promote(hub, publish(hub, "", seed=1))
    hub.clock.advance(3600)
    return hub


def change_policy(hub: HubFixture, **changes: object) -> None:
    with hub.hub.session() as session:
        session.get_one(Model, "digits").policy = {"drift": {**POLICY, **changes}}


def raise_alarm(hub: HubFixture, **detail: Any) -> int:
    with hub.hub.session() as session:
        alarm = Alarm(model="digits", release=1, at=hub.clock(), status="open", detail={"reason": "moved", **detail})
        session.add(alarm)
        session.flush()
        number = alarm.id
    assert number is not None
    respond(hub.hub, "digits", number)
    return number


def response(hub: HubFixture, alarm: int) -> AlarmResponse:
    follow(hub.hub)
    with hub.hub.reading() as session:
        return session.get_one(AlarmResponse, alarm)


def shown(hub: HubFixture, alarm: int) -> Mapping[str, Any]:
    items = hub.client.get("/api/v1/alarms", headers=hub.auth()).json()["items"]
    return next(item for item in items if item["id"] == alarm)["response"]


def record(hub: HubFixture, count: int, *, ago: float = 0.0, prefix: str = "s") -> list[str]:
    samples = [
        Sample(
            id=f"{prefix}{number:03d}",
            model="digits",
            release=1,
            variant="v",
            at=hub.clock() - ago,
            reason="random",
            inputs=(to_array("input", np.full((1, 4), number, np.float32)),),
            outputs=(),
            confidence=0.5,
            prediction=1,
        )
        for number in range(count)
    ]
    return list(store.commit(hub.hub, "d-0", samples))


def label(hub: HubFixture, ids: list[str]) -> None:
    store.label(hub.hub, dict.fromkeys(ids, 1), by="ada", actor="test")


def jobs(hub: HubFixture) -> list[Job]:
    with hub.hub.reading() as session:
        return list(session.exec(select(Job)))


def test_devices_that_the_alarm_names_are_asked_first_and_not_the_whole_fleet(fleet):
    alarm = raise_alarm(fleet, devices=["d-4", "gone", "d-2"])
    with fleet.hub.reading() as session:
        sent = list(session.exec(select(OutboxCommand).order_by(OutboxCommand.created_at)))
    assert {command.device_id for command in sent} > {"d-4", "d-2"} and len(sent) == 3
    assert {command.kind for command in sent} == {"send-samples"}
    wanted = {"model": "digits", "count": 50, "max_bytes": 4 << 20, "seconds": 6 * 3600.0}
    assert all(command.args == wanted for command in sent)
    found = shown(fleet, alarm)
    assert (found["asked"], found["of"], found["samples"]) == (3, 5, 50)


def test_the_retrain_waits_for_labels_from_after_the_shift_and_says_what_is_missing(fleet):
    early = record(fleet, 10, prefix="a")
    label(fleet, early)  # of the world before
    fleet.clock.advance(60)
    alarm = raise_alarm(fleet, devices=["d-0"])
    assert "0 of 6 labels" in response(fleet, alarm).document["missing"]
    fleet.clock.advance(60)
    late = record(fleet, 10)
    label(fleet, late[:5])
    found = response(fleet, alarm)
    assert found.state == "collecting" and jobs(fleet) == []
    assert "5 of 6 labels" in found.document["missing"] and "--unlabelled" in found.document["missing"]
    assert "5 of 6 labels" in shown(fleet, alarm)["missing"]
    record(fleet, 10, ago=7200.0, prefix="old")  # came late, of the world before
    label(fleet, [f"old{number:03d}" for number in range(10)])
    assert response(fleet, alarm).state == "collecting"
    label(fleet, late[5:6])
    found = response(fleet, alarm)
    (job,) = jobs(fleet)
    assert (found.state, found.job, found.document["missing"]) == ("retraining", job.id, "")
    assert job.payload["channel"] == "stable" and job.created_by == f"alarm:{alarm}"
    follow(fleet.hub)
    assert len(jobs(fleet)) == 1


def test_the_shift_s_own_time_counts_where_the_alarm_knows_it(fleet):
    record(fleet, 6, ago=300.0)
    label(fleet, [f"s{number:03d}" for number in range(6)])
    late = raise_alarm(fleet, since=fleet.clock() - 100.0)
    assert response(fleet, late).state == "collecting"
    with fleet.hub.session() as session:  # received before the alarm, too: after the shift began
        for row in session.exec(select(SampleRow)):
            row.received_at -= 300.0
    assert response(fleet, raise_alarm(fleet, since=fleet.clock() - 301.0)).state == "retraining"


@pytest.mark.parametrize(("labels", "state"), [(3, "collecting"), (4, "retraining")])
def test_at_the_deadline_few_labels_are_enough_but_not_none(fleet, labels, state):
    alarm = raise_alarm(fleet)
    label(fleet, record(fleet, 10)[:labels])
    assert response(fleet, alarm).state == "collecting"
    fleet.clock.advance(2 * DAY_S)
    found = response(fleet, alarm)
    assert found.state == state
    assert state == "retraining" or "3 of 4 labels" in found.document["missing"]


def test_another_retrain_is_waited_for_and_the_end_is_heard(fleet):
    with fleet.hub.session() as session:
        session.add(Job(id="j-0", kind="retrain", model="digits", state="running", created_at=0.0, created_by="ada"))
    alarm = raise_alarm(fleet)
    label(fleet, record(fleet, 6))
    for _ in range(2):
        assert "no retrain" in response(fleet, alarm).document["missing"]
    with fleet.hub.reading() as session:
        assert len(session.exec(select(AuditEntry).where(AuditEntry.action == "retrain.refused")).all()) == 1
    with fleet.hub.session() as session:
        session.get_one(Job, "j-0").state = "succeeded"
    started = response(fleet, alarm)
    assert started.state == "retraining"
    with fleet.hub.session() as session:
        job = session.get_one(Job, started.job)
        job.state, job.error = "failed", "the new teacher is worse"
    found = response(fleet, alarm)
    assert (found.state, found.document["missing"]) == ("failed", "the new teacher is worse")


def test_a_missing_recipe_is_said_before_anybody_labels(fleet):
    with fleet.hub.session() as session:
        session.get_one(Model, "digits").recipe = ""
    found = response(fleet, raise_alarm(fleet))
    assert "no recipe" in found.document["missing"] and "0 of 6 labels" in found.document["missing"]


def test_a_closed_alarm_starts_nothing(fleet):
    alarm = raise_alarm(fleet)
    assert fleet.client.post(f"/api/v1/alarms/{alarm}/close", headers=fleet.auth()).status_code == 200
    label(fleet, record(fleet, 6))
    assert response(fleet, alarm).state == "closed" and jobs(fleet) == []


def test_a_policy_without_retrain_collects_and_starts_nothing(fleet):
    change_policy(fleet, retrain="off", samples=0)
    alarm = raise_alarm(fleet)
    label(fleet, record(fleet, 6))
    found = response(fleet, alarm)
    assert (found.state, found.document["asked"], found.document["labelled"]) == ("asked", 0, 6)
    assert jobs(fleet) == []


def test_a_regression_s_labels_count_alike(hub):
    hub.model("tide")
    number = Tensor(name="tide", datatype="FP32", shape=(-1, 1))
    task = TaskSpec(name="regression", tolerance=0.5)
    hub.release("tide", labels=(), outputs=(number,), task=task, requires=("task:regression",))
    with hub.hub.session() as session:
        owner = session.get_one(Model, "tide")
        owner.recipe, owner.policy = "examples.digits.recipe", {"drift": POLICY}
        session.add(device_row("d-0"))
        alarm = Alarm(model="tide", release=1, at=hub.clock(), status="open", detail={})
        session.add(alarm)
        session.flush()
        number = alarm.id
    respond(hub.hub, "tide", number)
    samples = [
        Sample(
            id=f"t{number}",
            model="tide",
            release=1,
            variant="v",
            at=hub.clock(),
            reason="random",
            prediction=NO_CLASS,
            inputs=(to_array("input", np.ones((1, 4), np.float32)),),
            outputs=(),
            confidence=0.0,
        )
        for number in range(6)
    ]
    store.commit(hub.hub, "d-0", samples)
    store.label(hub.hub, {f"t{number}": 1.25 for number in range(6)}, by="ada", actor="test")
    assert response(hub, number).state == "retraining"

"""Two changes of the hub at once: each that reads, decides and writes is before or after the other, never lost.

On PostgreSQL, where two transactions really run at once; on SQLite BEGIN IMMEDIATE lets one of them write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlmodel import select

from cloud_hub.context import Hub
from cloud_hub.drift import epochs, monitors, records, scope
from cloud_hub.drift.basis import encode_basis, fit_basis
from cloud_hub.drift.policy import DriftPolicy
from cloud_hub.drift.streams import Settings, new_stream
from cloud_hub.errors import HubError
from cloud_hub.identity import enroll as enrolment
from cloud_hub.identity.tokens import Grant, create_token
from cloud_hub.jobs import queue
from cloud_hub.samples import snapshots, store
from cloud_hub.samples.dataset import Dataset
from cloud_hub.services.leases import hold_lease
from cloud_hub.store.tables import Alarm, Device, DriftMonitor, DriftStream, Job, Model, SampleRow
from cloud_hub.trust import models
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.messages import EnrollRequest
from tests.support.databases import migrated_postgres
from tests.support.device_key import DeviceKey
from tests.support.hub import HubFixture, make_hub
from tests.support.manifests import small_release
from tests.support.races import DEADLINE_S, Meanwhile, between


@pytest.fixture
def made(tmp_path: Path, postgres: str) -> Iterator[HubFixture]:
    hub = make_hub(tmp_path, database=migrated_postgres(postgres, "edgeloop_test"))
    yield hub
    hub.hub.engine.dispose()


@pytest.fixture
def meanwhile(made: HubFixture) -> Iterator[Meanwhile]:
    found = Meanwhile(made.hub.engine)
    yield found
    found.close()


def said_by(call: Callable[[], Any]) -> str:
    """`done`, or the error's kind."""
    try:
        call()
    except HubError as error:
        return error.code
    return "done"


Together = Callable[..., tuple[str, str]]


@pytest.fixture
def together(meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch) -> Together:
    """`first`, and `second` right after `first` has called `owner.name`; what both said."""

    def run(owner: Any, name: str, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[str, str]:
        said: list[Any] = []
        between(monkeypatch, owner, name, lambda: said.append(meanwhile.call(said_by, second)))
        return said_by(first), said[0].result(DEADLINE_S)

    return run


def job_of(made: HubFixture, job: str) -> Job:
    return queue.get(made.hub, job)


def test_a_job_is_cancelled_or_claimed(made: HubFixture, together: Together) -> None:
    job = queue.submit(made.hub, "k", actor="t").id
    taken: list[Any] = []
    together(
        Hub, "audit", lambda: queue.cancel(made.hub, job, actor="t"), lambda: taken.append(queue.claim(made.hub, "w"))
    )
    found = job_of(made, job)
    assert (found.state, found.owner, taken) == ("cancelled", "", [None])


def test_a_job_is_cancelled_or_ended(made: HubFixture, together: Together) -> None:
    job = queue.submit(made.hub, "k", actor="t").id
    queue.claim(made.hub, "w")
    first, second = together(
        queue,
        "_owned",
        lambda: queue.finish(made.hub, job, "w", "succeeded"),
        lambda: queue.cancel(made.hub, job, actor="t"),
    )
    assert (first, second) == ("done", "conflict")
    assert job_of(made, job).state == "succeeded" and not job_of(made, job).cancel_requested


def test_a_late_heartbeat_does_not_take_a_job_from_its_new_worker(made: HubFixture, together: Together) -> None:
    job = queue.submit(made.hub, "k", actor="t").id
    queue.claim(made.hub, "w")
    made.clock.advance(queue.LEASE_S + 1)
    taken: list[Any] = []
    together(
        queue,
        "_owned",
        lambda: queue.beat(made.hub, job, "w", step="mine"),
        lambda: taken.append(queue.claim(made.hub, "v")),
    )
    found = job_of(made, job)
    assert (taken[0], found.owner, found.step) == (None, "w", "mine")  # the heartbeat came first


def test_one_of_two_retrains_is_queued(made: HubFixture, together: Together) -> None:
    def submit() -> Job:
        return queue.submit(made.hub, "retrain", model="digits", actor="t", alone=True)

    assert sorted(together(queue, "_refuse_second", submit, submit)) == ["conflict", "done"]
    with made.hub.reading() as session:
        assert len(session.exec(select(Job)).all()) == 1


def test_a_closed_alarm_is_not_forgotten_by_the_engine(
    made: HubFixture, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.model()
    sketch = decode_manifest(small_release(sketch_id="s" * 64)[0]).sketch
    assert sketch is not None
    basis = fit_basis(np.eye(8), np.zeros(8, np.int64))
    settings = Settings(period_s=60.0, first=3, budget_days=1.0, weights=basis.weights)
    with made.hub.session() as session:
        monitor = DriftMonitor(model="digits", sketch_id="s" * 64, release=1, state="alarmed", updated_at=0.0)
        monitor.document, monitor.basis = {"epoch": 0.0, "since": 0.0, "began": 0.0}, encode_basis(basis)
        session.add(monitor)
        alarm = Alarm(model="digits", release=1, at=0.0, status="open")
        session.add(alarm)
        session.flush()
        number = alarm.id
        stream = new_stream("device", "d-0", 1, 1.0, 8)
        stream.alarm = number or 0
        records.save(session, "digits", [stream], settings, 0.0)

    def close() -> int:
        return made.client.post(f"/api/v1/alarms/{number}/close", headers=made.auth()).status_code

    said: list[Any] = []
    between(monkeypatch, epochs, "current", lambda: said.append(meanwhile.call(close)))
    served = scope.ServedRelease(release=1, default=True)
    target = scope.CheckedRelease(model="digits", served=served, scope=scope.Scope(watched=(served,)), upto=0)
    with made.hub.session() as session:  # a step of the engine that finds nothing new
        found = epochs.current(made.hub, session, target, sketch, DriftPolicy())
        found.document = {**found.document, "slot_s": 1.0}
        session.add(found)
    assert said[0].result(DEADLINE_S) == 200
    with made.hub.reading() as session:
        after = session.get_one(DriftMonitor, ("digits", 1))
        assert after.state == "watching" and after.document["slot_s"] == 1.0
        assert session.get_one(DriftStream, ("digits", 1, "device", "d-0")).alarm == 0
    assert monitors.list_monitors(made.hub, "digits")[0].state == "watching"


def test_two_changes_of_a_policy_both_stay(made: HubFixture, together: Together) -> None:
    made.model()
    drift, labels = {"drift": {"samples": 1}}, {"labels": {"check": "a.py:f"}}

    def change(policy: dict[str, Any]) -> None:
        answer = made.client.patch("/api/v1/models/digits", json={"policy": policy}, headers=made.auth())
        assert answer.status_code == 200, answer.text

    together(models, "get_model", lambda: change(drift), lambda: change(labels))
    with made.hub.reading() as session:
        assert session.get_one(Model, "digits").policy == drift | labels


def test_one_key_is_one_device_whatever_it_is_called(made: HubFixture, together: Together) -> None:
    key = DeviceKey()

    def request(name: str) -> EnrollRequest:
        with made.hub.session() as session:
            text = create_token(session, Grant(kind="claim", channel="stable"), now=made.clock(), pin="p").text
        return EnrollRequest(token=text.split(".")[1], secret=text.split(".")[2], csr=key.csr(), name=name)

    one, two = request("kiosk-1"), request("kiosk-2")
    said = together(
        enrolment, "certify", lambda: enrolment.enroll(made.hub, one), lambda: enrolment.enroll(made.hub, two)
    )
    assert said == ("done", "conflict")
    with made.hub.reading() as session:
        assert [device.id for device in session.exec(select(Device))] == ["kiosk-1"]


def test_releases_published_at_once_get_numbers_of_their_own(
    made: HubFixture, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.model()
    others: list[Any] = []

    def three_more() -> None:
        others.extend(meanwhile.call(made.hub.publisher.reserve, "digits", actor="t") for _ in range(3))

    between(monkeypatch, type(made.hub.publisher), "_reserve", three_more)
    first = made.hub.publisher.reserve("digits", actor="t")
    assert sorted([first, *(other.result(DEADLINE_S) for other in others)]) == [1, 2, 3, 4]


def test_one_of_two_replicas_leads_from_the_first_moment(made: HubFixture, meanwhile: Meanwhile) -> None:
    def lead(owner: str) -> bool:
        with made.hub.session() as session:
            return hold_lease(session, "engine", owner, made.clock(), 30.0)

    with made.hub.session() as session:
        first = hold_lease(session, "engine", "one", made.clock(), 30.0)
        second = meanwhile.call(lead, "two")
    assert (first, second.result(DEADLINE_S)) == (True, False)
    assert lead("one") and not lead("two")


def test_the_same_content_frozen_twice_is_one_snapshot(made: HubFixture, together: Together) -> None:
    dataset = Dataset({"x": np.zeros((2, 4), np.float32)}, np.zeros(2, np.int64), np.asarray(["a", "b"]))

    def save() -> None:
        snapshots.save(made.hub, "digits", dataset, actor="t")

    assert together(Hub, "audit", save, save) == ("done", "done")


def test_two_who_label_the_same_samples_wait_for_each_other(made: HubFixture, together: Together) -> None:
    """Each in another order, which two transactions that lock as they go would never get out of."""
    made.model()
    with made.hub.session() as session:
        for key in ("a", "b"):
            session.add(
                SampleRow(
                    id=key,
                    model="digits",
                    device_id="d",
                    release=1,
                    variant="v",
                    reason="random",
                    at=0.0,
                    received_at=0.0,
                    confidence=1.0,
                    prediction=0,
                    path="p",
                )
            )

    def label(by: str, *keys: str) -> None:
        store.label(made.hub, dict.fromkeys(keys, 3), by=by, actor="t")

    said = together(store, "_checked", lambda: label("ada", "a", "b"), lambda: label("bob", "b", "a"))
    assert said == ("done", "done")
    with made.hub.reading() as session:
        assert {row.labelled_by for row in session.exec(select(SampleRow))} == {"bob"}

"""The drift engine where something is wrong: another model, the storage, late windows, other channels."""

from __future__ import annotations

from msgspec.structs import replace
from sqlmodel import func, select

from cloud_hub.drift import scope, slots
from cloud_hub.drift.engine import DriftEngine
from cloud_hub.drift.policy import DriftPolicy
from cloud_hub.drift.trouble import TOLD
from cloud_hub.errors import UnreachableError
from cloud_hub.store.tables import (
    Alarm,
    AlarmResponse,
    Device,
    DriftMonitor,
    InputWatch,
    Model,
    OutboxCommand,
    Release,
    WindowRow,
)
from fleet.protocol.channel import ModelEntry
from tests.cloud_hub.drift.test_engine import add_windows, alarms, monitor, publish, streams, watched
from tests.support.told import told

__all__ = ["watched"]


def test_one_models_trouble_stops_no_other_model(watched):
    """A stored policy that is refused today, of a model that comes first by name."""
    with watched.hub.session() as session:
        session.add(Model(name="ants", created_at=0.0, policy={"drift": {"samples": -1}}))

    def change(channel):
        return replace(channel, models={**channel.models, "ants": ModelEntry(release=1)})

    with watched.hub.session() as session:
        manifest = session.get_one(Release, ("digits", 1)).manifest
        session.merge(Release(model="ants", number=1, status="published", manifest=manifest, created_at=0.0))
    watched.hub.publisher.change_channel("stable", change, actor="test")
    add_windows(watched, 27, shifted=False)
    engine = DriftEngine(watched.hub)
    engine.step()
    assert monitor(watched).state == "baseline"
    watched.clock.advance(60)
    engine.step()
    ants, digits = watched.client.get("/api/v1/drift", headers=watched.auth()).json()["items"]
    assert ants["model"] == "ants" and "2 looks failed: " in ants["trouble"]
    assert "inputs: drift policy: policy.drift.samples" in ants["trouble"]
    assert digits["trouble"] == ""
    assert told(watched.hub, "drift") == []
    for _ in range(TOLD):
        engine.step()
    assert told(watched.hub, "drift") == [("drift.unwatched", "ants")]
    with watched.hub.session() as session:
        session.get_one(Model, "ants").policy = {}
    engine.step()
    said = watched.client.get("/api/v1/drift", headers=watched.auth()).json()["items"]
    assert {item["trouble"] for item in said} == {""}


def test_what_the_code_does_not_expect_is_said_of_the_model_too(watched, monkeypatch):
    def broken(*_):
        raise ValueError("x" * 5000)

    engine = DriftEngine(watched.hub)
    monkeypatch.setattr(engine, "_step_meaning", broken)
    engine.step()
    (item,) = watched.client.get("/api/v1/drift?model=digits", headers=watched.auth()).json()["items"]
    assert "answers: ValueError('xxx" in item["trouble"] and len(item["trouble"]) < 600


def test_a_policy_of_the_former_bound_asks_for_what_an_agent_takes(watched):
    with watched.hub.session() as session:
        owner = session.get_one(Model, "digits")
        owner.policy = {"drift": {"baseline": "30m", "baseline_windows": 9, "samples": 2**31 - 1}}
        session.add(Alarm(model="digits", release=1, at=0.0, status="open", detail={"reason": "moved"}))
    DriftEngine(watched.hub).step()
    with watched.hub.reading() as session:
        response = session.exec(select(AlarmResponse)).one()  # whose alarm a hub left behind when it ended
        command = session.exec(select(OutboxCommand)).first()
    assert response.document["samples"] == 10_000 and command is not None


def test_first_windows_choose_no_coordinates_while_the_storage_is_away(watched, monkeypatch):
    def away(key):
        raise UnreachableError("the storage does not answer", subject=key)

    monkeypatch.setattr(watched.hub.objects, "get", away)
    add_windows(watched, 27, shifted=False)
    engine = DriftEngine(watched.hub)
    engine.step()
    with watched.hub.reading() as session:
        known = session.get(DriftMonitor, ("digits", 1))
    assert known is None or not known.basis
    monkeypatch.undo()
    engine.step()
    assert len(streams(watched)) == 3


def test_windows_that_do_not_count_are_passed_once(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 27, shifted=False)
    add_windows(watched, 9, shifted=False, release=7)
    engine.step()
    with watched.hub.reading() as session:
        assert monitor(watched).last_window == session.exec(select(func.max(WindowRow.id))).one()
        query = "EXPLAIN QUERY PLAN SELECT id FROM window WHERE model = 'digits' AND id > 9 ORDER BY id LIMIT 5"
        plan = str(session.connection().exec_driver_sql(query).all())
    assert "ix_window_model_id" in plan and "TEMP B-TREE" not in plan


def test_a_promotion_on_another_channel_leaves_devices_of_this_one_as_they_are(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    add_windows(watched, 36, shifted=True, only="d-1")
    engine.step()
    before = {name: row.windows for name, row in (streams(watched) | streams(watched, "fleet")).items()}
    second = publish(watched, "", seed=3)

    def change(channel):
        return replace(channel, models={"digits": ModelEntry(release=second)})

    watched.hub.publisher.change_channel("beta", change, actor="test")
    engine.step()
    assert {name: row.windows for name, row in (streams(watched) | streams(watched, "fleet")).items()} == before
    assert monitor(watched).state == "alarmed" and monitor(watched, second).state == "waiting"
    assert [alarm.status for alarm in alarms(watched)] == ["open"]


def test_windows_from_before_a_new_baseline_are_no_part_of_it(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    engine.step()
    began = watched.clock()
    headers, path = watched.auth(), "/api/v1/drift/digits/rebaseline"
    assert watched.client.post(path, json={"devices": ["d-1"]}, headers=headers).status_code == 200
    add_windows(watched, 30, shifted=True, seed=4)
    with watched.hub.session() as session:
        rows = select(WindowRow).where(WindowRow.device_id == "d-1", WindowRow.ended_at > began)
        for row in session.exec(rows):
            row.started_at, row.ended_at = began - 120, began - 60
    engine.step()
    assert "d-1" not in streams(watched)
    add_windows(watched, 9, shifted=False, seed=5)
    assert watched.client.post(path, json={}, headers=headers).status_code == 200
    watched.clock.advance(60)
    engine.step()
    assert monitor(watched).document["since"] <= watched.clock() and streams(watched) == {}


def test_a_policy_renews_no_baseline_while_an_alarm_is_open(watched):
    engine = DriftEngine(watched.hub)
    with watched.hub.session() as session:
        policy = {"baseline": "30m", "baseline_windows": 9, "refresh": "15h"}
        session.get_one(Model, "digits").policy = {"drift": policy}
    add_windows(watched, 120, shifted=False)
    add_windows(watched, 60, shifted=True)
    engine.step()
    watched.clock.advance(15 * 3600)
    engine.step()
    assert [alarm.status for alarm in alarms(watched)] == ["open"] and len(streams(watched)) == 3


def test_a_refresh_is_longer_than_a_baseline_can_take(watched):
    headers = watched.auth()
    for refresh, status in (("29d", 400), ("30d", 200)):
        body = {"policy": {"drift": {"baseline": "1d", "refresh": refresh}}}
        answer = watched.client.patch("/api/v1/models/digits", json=body, headers=headers)
        assert answer.status_code == status, answer.text
    assert DriftPolicy(baseline="1d", refresh="2d").refresh_s == 30 * 86_400.0  # of an earlier version


def test_groups_gather_devices_over_another_time_when_windows_become_longer(watched, monkeypatch):
    monkeypatch.setattr(slots, "LOOKED_AT", 60)
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    engine.step()
    assert monitor(watched).document["slot_s"] == 180.0
    for number in range(30):
        add_windows(watched, 3, shifted=False, seed=10 + number)
        watched.clock.advance(1620)
    before = streams(watched, "fleet")[""].windows
    engine.step()
    assert monitor(watched).document["slot_s"] == 1800.0
    assert streams(watched, "fleet")[""].windows > before + 20


def test_a_revoked_device_is_watched_no_longer(watched):
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    engine.step()
    with watched.hub.session() as session:
        session.add(InputWatch(model="digits", release=1, device_id="d-1", updated_at=0.0))
        session.get_one(Device, "d-1").revoked_at = watched.clock()
    add_windows(watched, 60, shifted=True, only="d-1")  # sent before it was revoked, or by whoever has its key
    watched.clock.advance(scope.LOOKED_S)
    engine.step()
    assert set(streams(watched)) == {"d-0", "d-2"} and alarms(watched) == []
    with watched.hub.reading() as session:
        assert session.get(InputWatch, ("digits", 1, "d-1")) is None

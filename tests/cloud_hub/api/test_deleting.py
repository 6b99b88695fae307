"""Deleting a device: what goes, what stays, and that it never comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from cloud_hub.acts import DeviceRevoked
from cloud_hub.broker.revocation import revoked
from cloud_hub.devices import deleting
from cloud_hub.devices.deleting import delete_device
from cloud_hub.errors import ConflictError
from cloud_hub.identity.enroll import enroll
from cloud_hub.ingest.commands import send_command
from cloud_hub.journal import FIRST, Position
from cloud_hub.opening.replaying import replay
from cloud_hub.samples import store
from cloud_hub.store.tables import (
    AuditEntry,
    ChannelRow,
    Device,
    DeviceEvent,
    DeviceModel,
    OutboxCommand,
    SampleRow,
    SpoolCursor,
    VitalsHourRow,
    WindowRow,
    WindowSum,
)
from fleet.protocol.channel import Channel, ModelEntry, Sampling
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import EnrollRequest
from tests.cloud_hub.test_journal import enrolled
from tests.support.databases import migrated_postgres
from tests.support.device_key import DeviceKey
from tests.support.hub import HubFixture, make_hub

WINDOW = {"model": "digits", "release": 1, "started_at": 0.0, "ended_at": 1.0}


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    """Two devices that have sent a little of everything; cam-2's rows are the newest."""
    return filled(hub)


def filled(hub: HubFixture) -> HubFixture:
    hub.channel()
    for name in ("cam-1", "cam-2"):
        enrolled(hub, name)
        fill(hub, name)
    return hub


def fill(hub: HubFixture, name: str) -> None:
    send_command(hub.hub, name, "diagnose", {})
    with hub.hub.session() as session:
        device = session.get(Device, name)
        assert device is not None
        device.last_seen_at, device.labels, device.info = hub.clock(), {"site": "berlin"}, {"agent": "1"}
        device.vitals, device.vitals_hour = {"at": 1.0, "cpu": 0.5}, {"begins": 0, "heartbeats": 1}
        session.add(device)
        session.add(DeviceModel(device_id=name, model="digits", state="committed", active=1))
        session.add(SpoolCursor(device_id=name, spool="s", committed=7))
        for number in range(1, 5):
            session.add(
                DeviceEvent(device_id=name, spool="s", seq=number, at=1.0, received_at=1.0, kind="agent", body={})
            )
            session.add(WindowRow(device_id=name, spool="w", seq=number, body={}, **WINDOW))
            session.add(VitalsHourRow(device_id=name, begins=3600 * number, heartbeats=60))
            session.add(WindowSum(device_id=name, span_s=3600, begins=3600 * number, windows=1, body={}, **WINDOW))
        session.add(
            SampleRow(
                id=f"s-{name}",
                model="digits",
                device_id=name,
                release=1,
                variant="v",
                reason="random",
                at=1.0,
                received_at=hub.clock(),
                confidence=0.5,
                prediction=1,
                path="p",
            )
        )


def rows(hub: HubFixture, name: str) -> dict[str, int]:
    with hub.hub.reading() as session:
        return {
            table.__tablename__: len(session.exec(select(table).where(table.device_id == name)).all())
            for table in deleting.ROWS
        }


def delete(hub: HubFixture, name: str, token: str = "") -> Any:
    return hub.client.delete(f"/api/v1/devices/{name}", headers=hub.auth(token))


def revoke(hub: HubFixture, name: str) -> None:
    assert hub.client.post(f"/api/v1/devices/{name}/revoke", headers=hub.auth()).status_code == 200


def listed(hub: HubFixture) -> list[str]:
    return [one["id"] for one in hub.client.get("/api/v1/devices", headers=hub.auth()).json()["items"]]


def test_a_device_in_use_is_not_deleted(fleet: HubFixture) -> None:
    before = rows(fleet, "cam-1")
    answer = delete(fleet, "cam-1")
    assert answer.status_code == 409 and answer.json()["hint"] == "first: fleet device revoke cam-1"
    assert rows(fleet, "cam-1") == before and listed(fleet) == ["cam-1", "cam-2"]
    assert delete(fleet, "none").status_code == 404
    revoke(fleet, "cam-1")
    assert delete(fleet, "cam-1", fleet.token(role="operator")).status_code == 403


def test_what_is_known_of_it_goes_and_what_keeps_it_out_stays(fleet: HubFixture) -> None:
    revoke(fleet, "cam-1")
    others = rows(fleet, "cam-2")
    done = delete(fleet, "cam-1").json()
    assert done == {"id": "cam-1", "rows": 19, "samples": 1, "left": False}
    assert set(rows(fleet, "cam-1").values()) == {0} and rows(fleet, "cam-2") == others
    assert listed(fleet) == ["cam-2"]
    for path in ("", "/explain", "/set-aside"):
        assert fleet.client.get(f"/api/v1/devices/cam-1{path}", headers=fleet.auth()).status_code == 404
    assert 'edgeloop_hub_devices{state="revoked"} 0.0' in fleet.client.get("/metrics", headers=fleet.auth()).text
    with fleet.hub.reading() as session:
        row = session.get(Device, "cam-1")
        assert row is not None and row.revoked_at and not (row.labels or row.info or row.certificate)
        kept = revoked(session, fleet.clock())
        assert kept.devices == ("cam-1",) and len(kept.serials) == 1, "the broker refuses its certificate as before"
        audit = session.exec(select(AuditEntry.action).where(AuditEntry.subject == "cam-1")).all()
    assert audit[-2:] == ["device.revoke", "device.delete"] and "device.enroll" in audit
    assert delete(fleet, "cam-1").status_code == 404, "there is nothing left to delete"


def test_neither_its_name_nor_its_key_comes_back(hub: HubFixture) -> None:
    hub.channel()
    _, request = enrolled(hub, "cam-1")
    assert delete(hub, "cam-1").status_code == 200, "it has enrolled, and never come"
    with pytest.raises(ConflictError, match="revoked"):
        enroll(hub.hub, request)
    for csr, name in ((request.csr, "cam-9"), (request.csr, ""), (DeviceKey().csr(), "cam-1")):
        _, fresh, secret, *_ = hub.token("claim", channel="stable").split(".")
        with pytest.raises(ConflictError):
            enroll(hub.hub, EnrollRequest(token=fresh, secret=secret, csr=csr, name=name))


def test_one_that_never_came_is_forbidden_first_so_that_no_restore_lets_it_in(hub: HubFixture) -> None:
    hub.channel()
    enrolled(hub, "cam-1")
    assert delete(hub, "cam-1").json()["rows"] == 0
    (act,) = [entry.act for entry in hub.hub.journal.read(Position(0, FIRST)).entries]
    assert isinstance(act, DeviceRevoked) and act.device == "cam-1" and len(act.certificates) == 1
    assert replay(hub.hub, whole=True).entries == 1
    assert listed(hub) == []
    with hub.hub.reading() as session:
        assert revoked(session, hub.clock()).devices == ("cam-1",)


def test_it_goes_in_small_steps_and_on_where_it_was_cut_off(fleet: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deleting, "STEP", 3)
    monkeypatch.setattr(deleting, "STEPS", 2)
    revoke(fleet, "cam-1")
    first = delete_device(fleet.hub, "cam-1", actor="t")
    assert first.left and 0 < first.rows <= 6
    assert listed(fleet) == ["cam-2"], "it is out of sight at once"
    calls, total = 1, first.rows
    while (done := delete_device(fleet.hub, "cam-1", actor="t")).left:
        calls, total = calls + 1, total + done.rows
        assert done.rows > 0, "each call comes further"
    assert total + done.rows == 19 and calls > 2 and set(rows(fleet, "cam-1").values()) == {0}
    with fleet.hub.reading() as session:
        actions = session.exec(select(AuditEntry.action).where(AuditEntry.subject == "cam-1")).all()
    assert actions.count("device.delete") == 1


def test_the_newest_numbers_are_not_given_again(fleet: HubFixture) -> None:
    revoke(fleet, "cam-2")
    assert delete(fleet, "cam-2").json()["left"] is False
    left = rows(fleet, "cam-2")
    assert {name: count for name, count in left.items() if count} == {"deviceevent": 1, "window": 1}


def test_the_call_that_deletes_the_last_row_says_that_nothing_is_left(
    fleet: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deleting, "STEPS", 7)
    revoke(fleet, "cam-1")
    done = delete_device(fleet.hub, "cam-1", actor="t")  # 19 rows of 7 tables: the last ones go in the seventh step
    assert (done.rows, done.left) == (19, False), "a caller would come again, and be told that there is no such device"


def test_its_samples_stay_as_long_as_its_channel_says_and_no_longer(fleet: HubFixture) -> None:
    sampling = Sampling(enabled=True, retention_days=2)
    document = Channel(channel="stable", version=1, models={"digits": ModelEntry(release=1, sampling=sampling)})
    with fleet.hub.session() as session:
        row = session.get(ChannelRow, "stable")
        assert row is not None
        row.document = encode_json(document)
        session.add(row)
    revoke(fleet, "cam-1")
    assert delete(fleet, "cam-1").json()["samples"] == 1
    fleet.clock.advance(86_400.0)
    assert store.sweep(fleet.hub) == 0
    fleet.clock.advance(2 * 86_400.0)
    assert store.sweep(fleet.hub) == 2, "those of the deleted device and of the other"


def test_a_real_postgresql_deletes_it_in_steps_and_answers_for_its_commands(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = filled(make_hub(tmp_path, database=migrated_postgres(postgres, "edgeloop_deleting")))
    with fleet.hub.session() as session:
        (command,) = session.exec(select(OutboxCommand.id).where(OutboxCommand.device_id == "cam-1")).all()
        body = {"id": command, "ok": True, "detail": "", "data": {"clock": "trusted"}}
        place = {"device_id": "cam-1", "spool": "s", "at": 1.0, "received_at": 1.0}
        session.add(DeviceEvent(seq=5, kind="result", body=body, **place))
        session.add(DeviceEvent(seq=6, kind="result", body={**body, "id": "c-other", "detail": command}, **place))
    asked = f"/api/v1/devices/cam-1/commands/{command}"
    found = fleet.client.get(asked, headers=fleet.auth()).json()
    assert found["state"] == "answered" and found["answer"]["data"] == {"clock": "trusted"}
    assert fleet.client.get(asked.replace("cam-1", "cam-2"), headers=fleet.auth()).status_code == 404
    revoke(fleet, "cam-1")
    others = rows(fleet, "cam-2")
    monkeypatch.setattr(deleting, "STEP", 3)
    assert delete(fleet, "cam-1").json() == {"id": "cam-1", "rows": 20, "samples": 1, "left": False}
    left = {name: count for name, count in rows(fleet, "cam-1").items() if count}
    assert left == {"deviceevent": 1} and rows(fleet, "cam-2") == others, "the newest number is not given again"
    assert listed(fleet) == ["cam-2"] and delete(fleet, "cam-1").status_code == 404
    assert fleet.client.get(asked, headers=fleet.auth()).status_code == 404

"""The state of a command (waiting, sent, answered, expired), and the answer that counts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cloud_hub.devices import answers
from cloud_hub.ingest.commands import LIFE_S, mark_sent, send_command
from cloud_hub.ingest.ingestor import Ingestor, Message
from fleet.protocol import topics
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import CommandResult, Envelope
from tests.cloud_hub.api.test_operator_api import add_device
from tests.support.hub import HubFixture


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    add_device(hub, "d1")
    add_device(hub, "d2")
    return hub


def say(fleet: HubFixture, device: str, seq: int, body: CommandResult) -> None:
    record = msgspec.Raw(encode_msgpack(body))
    sent = Envelope(device=device, spool="s1", seq=seq, base=1, at=5.0, kind="result", body=record)
    Ingestor(fleet.hub).take([Message(topics.uplink(device, "report"), encode_msgpack(sent))])


def look(fleet: HubFixture, device: str, command: str) -> Any:
    return fleet.client.get(f"/api/v1/devices/{device}/commands/{command}", headers=fleet.auth())


def test_a_command_goes_from_waiting_to_answered(fleet: HubFixture) -> None:
    command = send_command(fleet.hub, "d1", "logs", {"lines": 5})
    assert look(fleet, "d1", command).json()["state"] == "waiting"
    with fleet.hub.session() as session:
        mark_sent(session, command, fleet.clock())
    assert look(fleet, "d1", command).json()["state"] == "sent"
    say(fleet, "d1", 1, CommandResult(id="c-other", ok=True, data={"quoted": command}))
    assert look(fleet, "d1", command).json()["answer"] is None, "its id in another answer is not its answer"
    say(fleet, "d1", 2, CommandResult(id=command, ok=True, kind="logs", data={"lines": []}))
    say(fleet, "d1", 3, CommandResult(id=command, ok=False, detail="said again"))
    found = look(fleet, "d1", command).json()
    assert found["state"] == "answered" and found["kind"] == "logs"
    assert found["answer"] == {"ok": True, "detail": "", "data": {"lines": []}, "at": 5.0, "received_at": fleet.clock()}


def test_nobody_answers_for_another_device(fleet: HubFixture) -> None:
    command = send_command(fleet.hub, "d1", "diagnose", {})
    say(fleet, "d2", 1, CommandResult(id=command, ok=True, data={"forged": True}))
    assert look(fleet, "d1", command).json()["answer"] is None
    assert look(fleet, "d2", command).status_code == 404


def test_a_command_without_an_answer_expires(fleet: HubFixture) -> None:
    command = send_command(fleet.hub, "d1", "diagnose", {})
    fleet.clock.advance(LIFE_S + 1)
    assert look(fleet, "d1", command).json()["state"] == "expired"


def test_a_flood_of_reports_is_not_searched_without_end(fleet: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "NEWEST", 3)
    command = send_command(fleet.hub, "d1", "diagnose", {})
    say(fleet, "d1", 1, CommandResult(id=command, ok=True))
    assert look(fleet, "d1", command).json()["state"] == "answered"
    for seq in range(2, 5):
        say(fleet, "d1", seq, CommandResult(id="c-x", ok=True))
    assert look(fleet, "d1", command).json()["answer"] is None


def test_who_may_see_and_who_may_send(fleet: HubFixture) -> None:
    command = send_command(fleet.hub, "d1", "diagnose", {})
    viewer = fleet.auth(fleet.token(role="viewer"))
    path = "/api/v1/devices/d1/commands"
    assert fleet.client.get(f"{path}/{command}", headers=viewer).status_code == 200
    assert fleet.client.post(path, json={"kind": "logs"}, headers=viewer).status_code == 403
    assert fleet.client.get(f"{path}/{command}").status_code == 401
    assert look(fleet, "d1", "c-none").status_code == 404 and look(fleet, "none", command).status_code == 404


def test_only_the_newest_commands_are_kept_and_none_that_waits_is_lost(
    fleet: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who follows a device's log sends one every few seconds, for days."""
    monkeypatch.setattr("cloud_hub.ingest.commands.KEPT", 3)
    waiting, others = send_command(fleet.hub, "d1", "diagnose", {}), send_command(fleet.hub, "d2", "diagnose", {})
    sent = []
    for _ in range(6):
        fleet.clock.advance(5)
        sent.append(send_command(fleet.hub, "d1", "logs", {}))
        with fleet.hub.session() as session:
            mark_sent(session, sent[-1], fleet.clock())
    found = [look(fleet, "d1", command).status_code for command in sent]
    assert found == [404, 404, 404, 200, 200, 200]
    assert look(fleet, "d1", waiting).json()["state"] == "waiting"
    assert look(fleet, "d2", others).status_code == 200
    fleet.clock.advance(LIFE_S)
    send_command(fleet.hub, "d1", "diagnose", {})
    assert look(fleet, "d1", waiting).status_code == 404, "it has expired, and is old"

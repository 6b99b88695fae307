"""Each act does what its words say, by the use case of the API, and writes down who did it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args, get_type_hints

import pytest
from msgspec.structs import replace
from sqlmodel import select

from cloud_hub.dashboard.acts.rollouts import EVIDENCE
from cloud_hub.store.tables import (
    Alarm,
    Device,
    DeviceEvent,
    DriftMonitor,
    Job,
    Model,
    OutboxCommand,
    Release,
    RolloutRow,
    Token,
)
from fleet.protocol.channel import Audit, Channel, ModelEntry
from fleet.rollouts.guard_policy import GuardPolicy
from tests.support.acting import Person, audited, text_of
from tests.support.hub import HubFixture

NEW = "/act/rollouts"
WANTED = {"model": "digits", "release": "4", "channel": "stable", "stages": "50, 100", "evidence": "install"}


@pytest.fixture(scope="module")
def ready_hub(shared_hub: HubFixture) -> HubFixture:
    """A busy hub for all tests of this file, each of which acts on something of its own; no rollout is under way."""
    for _ in range(2):
        shared_hub.release("digits")
    with shared_hub.hub.session() as session:
        session.delete(session.get_one(RolloutRow, "r-2"))
    return shared_hub


@contextmanager
def changed(hub: HubFixture, change: Callable[[ModelEntry], ModelEntry]) -> Iterator[None]:
    """The channel's entry of the model is another one for a while."""
    publisher, before = hub.hub.publisher, dict[str, ModelEntry]()

    def away(channel: Channel) -> Channel:
        before.update(channel.models)
        return replace(channel, models={"digits": change(channel.models["digits"])})

    publisher.change_channel("stable", away, actor="somebody else", create=False)
    yield
    publisher.change_channel("stable", lambda channel: replace(channel, models=before), actor="test", create=False)


def rollouts(hub: HubFixture) -> list[str]:
    with hub.hub.reading() as session:
        return sorted(session.exec(select(RolloutRow.id)))


def test_a_rollout_starts_after_its_plan_was_shown(ready_hub: HubFixture) -> None:
    operator = Person(ready_hub, ready_hub.token(role="operator"))
    page = operator.open(f"{NEW}?model=digits").text
    assert '<option value="4">' in page and "Start this rollout" not in page
    planned = operator.send(NEW, page, **WANTED, step="plan", approval="yes")
    text = text_of(planned.text)
    assert planned.status_code == 200 and "digits 2 → 4 on stable" in text and "Start this rollout" in text
    assert "answers are not judged" in text and re.search(r"50 % [12] [12] 0", text)
    made = operator.send(NEW, planned.text, **WANTED, step="start", approval="yes")
    assert made.status_code == 303 and made.headers["location"].startswith("/rollouts/r-")
    with ready_hub.hub.reading() as session:
        row = session.get_one(RolloutRow, made.headers["location"].rpartition("/")[2])
    assert (row.release, row.from_release, row.plan["policy"]["approval"]) == (4, 2, True)
    assert [entry.subject for entry in audited(ready_hub, "rollout.create")] == [row.id]
    assert operator.send(f"/act/rollouts/{row.id}/abort").status_code == 303


def test_what_was_changed_after_the_plan_is_planned_anew(ready_hub: HubFixture) -> None:
    person, before = Person(ready_hub), rollouts(ready_hub)
    planned = person.send(NEW, **WANTED, step="plan").text
    other = person.send(NEW, planned, **WANTED | {"stages": "1, 100"}, step="start")
    assert other.status_code == 409 and "nothing was started" in text_of(other.text)
    assert 'value="1, 100"' in other.text
    with changed(ready_hub, lambda entry: replace(entry, release=3)):
        moved = person.send(NEW, planned, **WANTED, step="start")
    assert moved.status_code == 409 and "nothing was started" in text_of(moved.text)
    assert rollouts(ready_hub) == before


WRONG = (
    ({"stages": "10, x"}, "'x' is not a number"),
    ({"stages": ""}, "stages"),
    ({"stages": "nan"}, "Stages"),
    ({"release": "4.5"}, "'4.5' is not a whole number"),
    ({"release": "9" * 40}, "Release"),
    ({"channel": "nowhere"}, "nowhere"),
    ({"model": "<b>"}, "<b>"),
    ({"margin": "1e999"}, "Guard"),
    ({"groups": "site=nowhere"}, "no device of channel"),
    ({"window": "sometime"}, "window"),
    ({"soak": "-1"}, "Minutes that a stage"),
    ({"evidence": "hope"}, "Guard"),
)


def test_every_kind_of_evidence_that_a_guard_knows_is_offered(ready_hub: HubFixture) -> None:
    assert {name for name, _ in EVIDENCE} == set(get_args(get_type_hints(GuardPolicy)["evidence"]))
    page = Person(ready_hub).open(NEW).text
    assert all(f'<option value="{name}"' in page for name, _ in EVIDENCE)


def test_a_wrong_field_is_named_and_everything_stays(ready_hub: HubFixture) -> None:
    person, before = Person(ready_hub), rollouts(ready_hub)
    page = person.open(NEW).text
    for wrong, words in WRONG:
        answer = person.send(NEW, page, **WANTED | wrong, step="plan")
        assert answer.status_code in (400, 404, 409), wrong
        assert words.lower() in text_of(answer.text).lower() and "<b>" not in answer.text, wrong
    assert rollouts(ready_hub) == before


def test_a_plan_that_could_never_end_has_no_start(ready_hub: HubFixture) -> None:
    with changed(ready_hub, lambda entry: replace(entry, audit=Audit())):
        planned = Person(ready_hub).send(NEW, **WANTED | {"evidence": "paired"}, step="plan")
    text = text_of(planned.text)
    assert "It could never finish" in text and "Start this rollout" not in text


def test_a_release_is_withdrawn_with_a_reason(ready_hub: HubFixture) -> None:
    path, person = "/act/models/digits/releases/5/withdraw", Person(ready_hub)
    assert person.send(path, reason=" ").status_code == 400
    used = person.send("/act/models/digits/releases/2/withdraw", reason="bad")
    assert used.status_code == 409 and "still names release 2" in text_of(used.text) and 'value="bad"' in used.text
    assert person.send(path, reason="labels swapped").headers["location"] == "/models/digits"
    with ready_hub.hub.reading() as session:
        assert session.get_one(Release, ("digits", 5)).status == "withdrawn"
    assert audited(ready_hub, "release.withdraw")[0].detail == {"reason": "labels swapped"}
    assert "is withdrawn already" in text_of(person.open(path).text)
    for number in ("9", "0", "x", "²", "9" * 30):
        assert person.open(f"/act/models/digits/releases/{number}/withdraw").status_code == 404


def test_a_retrain_needs_a_recipe_and_is_queued_with_its_options(ready_hub: HubFixture) -> None:
    path, person = "/act/models/digits/retrain", Person(ready_hub)
    assert "has no recipe" in text_of(person.open(path).text) and person.send(path).status_code == 409
    with ready_hub.hub.session() as session:
        session.get_one(Model, "digits").recipe = "cloud_hub.training.models"
    refused = person.send(path, seed="x", snapshot="", channel="", max_bytes="")
    assert refused.status_code == 400 and 'value="x"' in refused.text
    answer = person.send(path, seed="7", snapshot="", channel="stable", max_bytes="5000")
    assert answer.status_code == 303
    with ready_hub.hub.reading() as session:
        (job,) = session.exec(select(Job))
    assert answer.headers["location"] == f"/jobs/{job.id}"
    assert (job.payload["seed"], job.payload["channel"], job.payload["max_bytes"]) == (7, "stable", 5000)
    assert job.payload["rollout"]["stages"] == [10.0, 50.0, 100.0] and job.created_by.startswith("operator:")


def test_an_alarm_is_closed_once(ready_hub: HubFixture) -> None:
    person = Person(ready_hub)
    with ready_hub.hub.reading() as session:
        alarm = session.exec(select(Alarm)).one()
    path = f"/act/alarms/{alarm.id}/close"
    assert "digits, release 2" in text_of(person.open(path).text)
    assert person.send(path, usual="yes").headers["location"] == "/drift"
    assert audited(ready_hub, "alarm.close")[0].detail["usual"] is True
    assert "closed already" in text_of(person.open(path).text)
    for number in ("77", "x", "9" * 30):
        assert person.open(f"/act/alarms/{number}/close").status_code == 404


def test_a_baseline_begins_anew_only_where_inputs_are_watched(ready_hub: HubFixture) -> None:
    person, path = Person(ready_hub), "/act/models/digits/rebaseline"
    assert "No inputs of digits are watched" in text_of(person.open(path).text)
    with ready_hub.hub.session() as session:
        session.add(DriftMonitor(model="digits", sketch_id="s", release=2, state="watching", updated_at=0))
    assert '<option value="2">' in person.open(path).text
    unknown = person.send(path, release="2", devices="kiosk-9")
    assert unknown.status_code == 404 and 'value="kiosk-9"' in unknown.text
    assert person.send(path, release="", devices="").headers["location"] == "/drift"
    assert audited(ready_hub, "drift.rebaseline")[0].actor.startswith("operator:")


def test_a_device_is_revoked_by_an_admin(ready_hub: HubFixture) -> None:
    person, path = Person(ready_hub), "/act/devices/kiosk-1/revoke"
    assert "serving digits 2" in text_of(person.open(path).text)
    assert person.send(path).headers["location"] == "/devices/kiosk-1"
    with ready_hub.hub.reading() as session:
        assert session.get_one(Device, "kiosk-1").revoked_at is not None
    assert "revoked already" in text_of(person.open(path).text)
    assert "takes no commands" in text_of(person.open("/act/devices/kiosk-1/commands/diagnose").text)


COMMANDS = (
    ("diagnose", {}, {}),
    ("logs", {"lines": 20, "minutes": 0}, {"lines": 20}),
    ("logs", {"lines": 20, "minutes": 1.5}, {"lines": 20, "seconds": 90.0}),
    ("benchmark", {"model": "digits", "rounds": 30}, {"model": "digits", "rounds": 30}),
    (
        "send-samples",
        {"model": "digits", "count": 5, "hours": 2, "mib": 1},
        {"model": "digits", "count": 5, "max_bytes": 1 << 20, "seconds": 7200.0},
    ),
    ("set-log-level", {"level": "DEBUG"}, {"level": "DEBUG"}),
)


def test_a_command_is_queued_with_its_arguments(ready_hub: HubFixture) -> None:
    person = Person(ready_hub)
    for kind, fields, args in COMMANDS:
        answer = person.send(f"/act/devices/kiosk-0/commands/{kind}", **fields)
        command = answer.headers["location"].removeprefix("/devices/kiosk-0/commands/")
        with ready_hub.hub.reading() as session:
            row = session.get_one(OutboxCommand, command)
        assert (row.device_id, row.kind, row.args) == ("kiosk-0", kind, args)


def test_the_answer_of_a_device_has_a_page(ready_hub: HubFixture) -> None:
    person = Person(ready_hub)
    where = person.send("/act/devices/kiosk-0/commands/logs", lines=5, minutes=0).headers["location"]
    assert "It is on its way" in text_of(person.open(where).text)
    answers = (
        (
            {"ok": True, "detail": "logs", "data": {"lines": [{"level": "INFO", "text": "<b>ready", "name": "a"}, 7]}},
            "INFO a: <b>ready",
        ),
        ({"ok": False, "detail": "no <i>disk", "data": {}}, "The device could not: no <i>disk"),
        ({"ok": True, "detail": "d", "data": {"lines": "x", "deep": {"free": 3}}}, '"free": 3'),
    )
    for number, (body, words) in enumerate(answers):
        where = person.send("/act/devices/kiosk-0/commands/logs", lines=5, minutes=0).headers["location"]
        told = {"id": where.rpartition("/")[2], "kind": "logs", **body}
        with ready_hub.hub.session() as session:
            session.add(
                DeviceEvent(
                    device_id="kiosk-0", spool="s", seq=900 + number, at=1.0, received_at=1.0, kind="result", body=told
                )
            )
        page = person.open(where).text
        assert words in text_of(page) and "<b>" not in page and "<i>" not in page
    assert person.open("/devices/kiosk-0/commands/none").status_code == 404


def test_a_command_out_of_bounds_is_refused_and_an_absent_device_is_said(ready_hub: HubFixture) -> None:
    person, before = Person(ready_hub), len(audited(ready_hub, "device.command"))
    logs, bench = (f"/act/devices/kiosk-0/commands/{kind}" for kind in ("logs", "benchmark"))
    for path, fields in (
        (logs, {"lines": "5000", "minutes": "0"}),
        (logs, {"lines": "many", "minutes": "0"}),
        (logs, {"lines": "10", "minutes": "nan"}),
        (bench, {"model": "other", "rounds": "5"}),
        ("/act/devices/kiosk-0/commands/set-log-level", {"level": "LOUD"}),
    ):
        assert person.send(path, **fields).status_code == 400, fields
    assert "is offline" in text_of(person.open("/act/devices/kiosk-2/commands/diagnose").text)
    assert len(audited(ready_hub, "device.command")) == before


def test_a_token_is_shown_once_and_works(ready_hub: HubFixture) -> None:
    admin, path = Person(ready_hub), "/act/tokens"
    page = admin.open(path).text
    fields = {"kind": "operator", "role": "viewer", "scope": "", "rate": "", "note": "for <b>Ada</b>", "life": "3600"}
    made = admin.send(path, page, **fields)
    found = re.search(r"el1\.[0-9a-f]+\.[\w-]+", made.text)
    assert made.status_code == 200 and found and "<b>" not in made.text
    assert ready_hub.client.get("/api/v1/models", headers=ready_hub.auth(found[0])).status_code == 200
    ready_hub.clock.advance(3601)
    assert ready_hub.client.get("/api/v1/models", headers=ready_hub.auth(found[0])).status_code == 401
    made_before = len(audited(ready_hub, "token.create"))
    again = admin.send(path, page, **fields)
    assert again.status_code == 409 and "el1." not in again.text
    assert len(audited(ready_hub, "token.create")) == made_before


def test_tokens_are_refused_by_role_and_by_fields(ready_hub: HubFixture) -> None:
    operator, admin = Person(ready_hub, ready_hub.token(role="operator")), Person(ready_hub)
    fields = {"kind": "operator", "role": "admin", "scope": "", "rate": "", "note": "", "life": "3600"}
    page = operator.open("/act/tokens").text
    assert "mirror" not in page
    refused = operator.send("/act/tokens", page, **fields)
    assert refused.status_code == 403 and "made by an admin" in text_of(refused.text)
    for wrong in ({"role": ""}, {"life": "1e9"}, {"kind": "application"}, {"kind": "claim"}, {"rate": "x"}):
        assert admin.send("/act/tokens", **fields | wrong).status_code == 400, wrong


def test_a_token_is_revoked_by_an_admin(ready_hub: HubFixture) -> None:
    token = ready_hub.token(role="viewer", note="of a visitor")
    path, admin = f"/act/tokens/{token.split('.')[1]}/revoke", Person(ready_hub)
    assert "operator viewer (of a visitor)" in text_of(admin.open(path).text)
    assert admin.send(path).headers["location"] == "/access"
    assert ready_hub.client.get("/api/v1/models", headers=ready_hub.auth(token)).status_code == 401
    assert "revoked already" in text_of(admin.open(path).text)
    own = admin.open(f"/act/tokens/{ready_hub.admin_token.split('.')[1]}/revoke").text
    assert "you are logged in with" in text_of(own)
    assert admin.open("/act/tokens/none/revoke").status_code == 404


def test_a_device_is_added_by_one_command_with_a_token_that_expires(ready_hub: HubFixture) -> None:
    operator, path = Person(ready_hub, ready_hub.token(role="operator")), "/act/devices"
    fields = {"channel": "stable", "name": "kiosk-7", "labels": "site=berlin, hw=rpi4", "life": "3600"}
    made = operator.send(path, **fields)
    (line,) = re.findall(r"edge-agent enroll .*", text_of(made.text).replace(" Done", ""))
    words = shlex.split(line)
    assert words[2] == ready_hub.hub.config.addresses.http_advertise and words[-4:-1] == ["--name", "kiosk-7", "--dir"]
    with ready_hub.hub.reading() as session:
        token = session.get_one(Token, words[words.index("--token") + 1].split(".")[1])
    assert (token.kind, token.channel, token.labels) == ("claim", "stable", {"site": "berlin", "hw": "rpi4"})
    assert token.expires_at == ready_hub.clock() + 3600
    for wrong in ({"labels": "berlin"}, {"name": "Kiosk 7"}, {"channel": ""}, {"life": ""}):
        refused = operator.send(path, **fields | wrong)
        assert refused.status_code == 400 and "el1." not in refused.text, wrong

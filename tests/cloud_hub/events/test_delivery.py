"""From what happens to a real receiver over TLS: signed, tried again, given up, and nobody waits for anybody."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from threading import Event as Flag

import pytest
from pydantic import ValidationError
from sqlmodel import select

from cloud_hub.errors import InvalidError
from cloud_hub.event_settings import EventTarget
from cloud_hub.events import kinds, outbox, signing
from cloud_hub.events.answers import get
from cloud_hub.events.delivery import Spreading
from cloud_hub.events.schedule import LIFE_S, PAUSES_S
from cloud_hub.events.targets import open_targets
from cloud_hub.monitoring.metrics import FleetCollector
from cloud_hub.store.tables import EventDelivery
from tests.cloud_hub.events.conftest import SECRET, deliver, delivering, happens, target
from tests.support.https import OK, Got, Receiver, receiver
from tests.support.hub import HubFixture, make_hub

HOOK = "EDGELOOP_SECRET_HOOK"
BUSY = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"


def way(fixture: HubFixture, event: str, name: str = "ops"):
    (found,) = [one for one in get(fixture.hub, event).deliveries if one.target == name]
    return found


def test_an_event_arrives_signed_once(told, ops):
    event = happens(told, message="digits failed")
    assert deliver(told) == 1 and deliver(told) == 0
    (got,) = ops.got
    document = json.loads(got.body)
    assert (document["type"], document["data"]["id"], document["data"]["message"]) == (
        "job.failed",
        event,
        "digits failed",
    )
    expected = signing.sign(signing.read_secret(SECRET), event, int(told.clock()), got.body)
    assert expected.items() <= got.headers.items()
    assert way(told, event).state == "delivered"


def test_one_that_fails_is_tried_again_with_the_same_id_and_a_new_signature(told, ops):
    ops.answers = [BUSY, BUSY, OK]
    event = happens(told)
    deliver(told)
    assert deliver(told) == 0  # not before its pause is over
    for pause in PAUSES_S[:2]:
        told.clock.advance(pause)
        assert deliver(told) == 1
    assert {got.headers["webhook-id"] for got in ops.got} == {event}
    assert len({got.headers["webhook-signature"] for got in ops.got}) == 3
    assert [one.status for one in way(told, event).log] == [500, 500, 204]


def test_after_its_tries_it_is_dead_and_an_operator_may_send_it_again(told, ops):
    ops.answers = [BUSY]
    event = happens(told)
    while way_of := deliver(told):
        told.clock.advance(PAUSES_S[min(len(ops.got), len(PAUSES_S)) - 1] + 1)
        assert way_of == 1
    found = way(told, event)
    assert (found.state, found.tries, found.next_at) == ("dead", 8, None) and "given up" in found.log[-1].error
    ops.answers = [OK]
    path = f"/api/v1/events/{event}/resend"
    assert told.client.post(path, json={}, headers=told.auth()).json()["deliveries"][0]["state"] == "waiting"
    assert deliver(told) == 1 and way(told, event).state == "delivered"
    refused = told.client.post(path, json={}, headers=told.auth())
    assert refused.status_code == 409 and "--target" in refused.json()["hint"]
    assert told.client.post(path, json={"target": "ops"}, headers=told.auth()).status_code == 200


def test_what_is_older_than_a_day_is_not_sent(told, ops):
    event = happens(told)
    told.clock.advance(LIFE_S + 1)
    deliver(told)
    assert ops.got == [] and "older than a day" in way(told, event).log[-1].error


def test_a_target_that_hangs_delays_no_other(tmp_path: Path, ops: Receiver):
    with receiver(tmp_path / "slow") as slow:
        let_go = Flag()

        def hang(got: Got) -> bytes:
            assert let_go.wait(120)
            return OK

        slow.answers = [hang]
        fixture = make_hub(tmp_path, events={"targets": {"slow": target(slow, timeout_s=60), "ops": target(ops)}})
        event = happens(fixture)
        Spreading(fixture.hub).look()

        async def both() -> None:
            waits = asyncio.create_task(delivering(fixture.hub, "slow").step())
            while not slow.came.is_set():
                await asyncio.sleep(0)
            assert await delivering(fixture.hub, "ops").step() == 1
            assert not waits.done() and way(fixture, event).state == "delivered"
            let_go.set()
            await waits

        asyncio.run(both())
        assert way(fixture, event, "slow").state == "delivered"


def test_two_hubs_that_deliver_at_once_send_each_event_once(tmp_path: Path, ops: Receiver, hub_database: str):
    fixture = make_hub(tmp_path, database=hub_database, events={"targets": {"ops": target(ops)}})
    events = {happens(fixture) for _ in range(8)}
    Spreading(fixture.hub).look()
    hubs = [delivering(fixture.hub), delivering(fixture.hub)]

    async def until_nothing(hub) -> None:
        while await hub.step():
            pass

    async def both() -> None:
        await asyncio.gather(*map(until_nothing, hubs))

    asyncio.run(both())
    asyncio.run(until_nothing(hubs[0]))  # what one had locked while the other looked
    assert sorted(got.headers["webhook-id"] for got in ops.got) == sorted(events)


def test_a_target_hears_of_its_kinds_alone_and_slack_gets_its_own_format(tmp_path: Path, ops: Receiver):
    ops.ca.with_name("url").write_text(ops.url)
    slack = {
        "format": "slack",
        "url_file": str(ops.ca.with_name("url")),
        "ca_file": str(ops.ca),
        "allow_private": True,
        "kinds": ["rollout.*"],
    }
    fixture = make_hub(tmp_path, events={"targets": {"chat": slack}})
    happens(fixture), happens(fixture, "rollout.halted", "harm")
    assert deliver(fixture, "chat") == 1
    (got,) = ops.got
    assert json.loads(got.body)["text"].startswith("*rollout.halted* harm")
    assert "webhook-signature" not in got.headers


def test_a_hub_sends_a_test_to_one_target(told, ops):
    answer = told.client.post("/api/v1/event-tests", json={"target": "ops"}, headers=told.auth())
    assert answer.status_code == 201
    deliver(told)
    assert json.loads(ops.got[0].body)["type"] == "event.test"
    found = told.client.get("/api/v1/events", params={"state": "delivered"}, headers=told.auth()).json()["items"]
    assert [one["id"] for one in found] == [answer.json()["id"]]
    unknown = told.client.post("/api/v1/event-tests", json={"target": "nobody"}, headers=told.auth())
    assert unknown.status_code == 404 and "it has ops" in unknown.json()["hint"]
    assert told.client.get("/api/v1/events", params={"kind": "x"}, headers=told.auth()).status_code == 400


def test_tests_drive_no_other_event_out(told, monkeypatch):
    monkeypatch.setattr(kinds, "MOST_PER_HOUR", 2)
    codes = [told.client.post("/api/v1/event-tests", json={"target": "ops"}, headers=told.auth()) for _ in range(3)]
    assert [answer.status_code for answer in codes] == [201, 201, 429]
    assert happens(told) != ""
    told.clock.advance(3601)
    assert told.client.post("/api/v1/event-tests", json={"target": "ops"}, headers=told.auth()).status_code == 201


def test_a_clock_that_jumps_ahead_ends_nothing_that_waits(told, ops):
    steady = told.clock()
    service = delivering(told.hub, monotonic=lambda: steady)
    assert asyncio.run(service.step()) == 0
    happens(told)
    Spreading(told.hub).look()
    told.clock.advance(400 * 86_400.0)
    assert asyncio.run(service.step()) == 1 and len(ops.got) == 1


def test_two_hubs_that_see_one_jump_give_nothing_two_lives(told, ops):
    happens(told)
    Spreading(told.hub).look()
    steady, ops.answers = told.clock(), [BUSY] * 4
    services = [delivering(told.hub, monotonic=lambda: steady) for _ in range(2)]
    for service in services:
        asyncio.run(service.step())
    told.clock.advance(400 * 86_400.0)
    for service in services:
        asyncio.run(service.step())
    with told.hub.reading() as session:
        (row,) = session.exec(select(EventDelivery)).all()
    assert row.state == "waiting" and row.expires_at <= told.clock() + LIFE_S


def test_an_event_that_is_spread_after_a_jump_is_not_older_by_it(told, ops):
    steady = told.clock()
    spreading = Spreading(told.hub, monotonic=lambda: steady)
    spreading.look()
    happens(told)
    told.clock.advance(400 * 86_400.0)
    spreading.look()
    assert asyncio.run(delivering(told.hub).step()) == 1 and len(ops.got) == 1


def test_a_target_that_nothing_died_for_is_counted_with_zero(told):
    """An alert sees growth between two samples: the first death is one of them only if nothing was said before it."""

    def dead() -> float:
        (family,) = [one for one in FleetCollector(told.hub).collect() if one.name == "edgeloop_hub_event_deliveries"]
        (value,) = [one.value for one in family.samples if one.labels == {"target": "ops", "state": "dead"}]
        return value

    happens(told)
    before = dead()
    told.clock.advance(LIFE_S + 1)
    deliver(told)
    assert (before, dead()) == (0.0, 1.0)


def test_no_answer_shows_an_address_or_a_secret(told, ops):
    answer = told.client.get("/api/v1/event-targets", headers=told.auth())
    assert answer.json()["items"][0]["host"] == "127.0.0.1"
    assert "/hook" not in answer.text and "secret" not in answer.text
    viewer = told.auth(told.token(role="viewer"))
    assert told.client.get("/api/v1/event-targets", headers=viewer).status_code == 403
    assert told.client.post("/api/v1/event-tests", json={"target": "ops"}, headers=viewer).status_code == 403
    assert SECRET not in repr(open_targets(told.hub.config.events, {}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"url": "http://hooks.example/"}, "https"),
        ({"url": ""}, "url_file"),
        ({"secret_file": "/nowhere/secret"}, "/nowhere/secret"),
        ({"secret_file": "", "secret_env": HOOK}, f"variable {HOOK}"),
        ({"secret_file": ""}, "secret_env"),
        ({"kinds": ["rollout.halt"]}, "rollout.halted"),
        ({"ca_file": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
    ],
)
def test_a_target_that_cannot_be_opened_is_said_before_the_hub_starts(tmp_path, ops, changes, says):
    fixture = make_hub(tmp_path, events={"targets": {"ops": target(ops, **changes)}})
    with pytest.raises(InvalidError) as refused:
        open_targets(fixture.hub.config.events, {})
    assert says in f"{refused.value} {refused.value.hint}" and "events.targets.ops" in str(refused.value)


def test_a_secret_may_come_from_a_variable(tmp_path, ops):
    fixture = make_hub(tmp_path, events={"targets": {"ops": target(ops, secret_file="", secret_env=HOOK)}})
    (found,) = open_targets(fixture.hub.config.events, {HOOK: f"\ufeff{SECRET}\r\n"})
    assert found.key == signing.read_secret(SECRET)


def test_a_variable_that_the_code_of_recipes_would_see_holds_no_secret():
    with pytest.raises(ValidationError, match="EDGELOOP_SECRET_"):
        EventTarget(url="https://hooks.example/", secret_env="HOOK")


def test_what_waits_for_a_removed_target_ends_and_is_not_sent_again(told):
    event = happens(told)
    with told.hub.session() as session:
        outbox.spread(session, {"gone": ("*",)}, told.clock())
    told.clock.advance(outbox.UNCLAIMED_S + 1)
    Spreading(told.hub).look()
    found = way(told, event, "gone")
    assert (found.state, found.log[-1].error) == ("dead", outbox.REMOVED)
    path = f"/api/v1/events/{event}/resend"
    assert told.client.post(path, json={}, headers=told.auth()).status_code == 409
    refused = told.client.post(path, json={"target": "gone"}, headers=told.auth())
    assert refused.status_code == 404 and "it has ops" in refused.json()["hint"]

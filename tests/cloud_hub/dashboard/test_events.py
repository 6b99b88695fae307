"""Events on the dashboard: what did not reach its target comes first, with why, and may be sent again."""

from __future__ import annotations

import pytest
from sqlmodel import select

from cloud_hub.dashboard.views import events as words
from cloud_hub.events.kinds import KINDS, Event
from cloud_hub.events.outbox import find, record
from cloud_hub.store.tables import EventDelivery
from fleet.api.events import DeliveryInfo, EventInfo, Try
from tests.support.acting import Person, audited, text_of
from tests.support.hub import HubFixture, make_hub


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    """A hub with two targets; one event reached one of them, one was left to wait."""
    folder = tmp_path_factory.mktemp("events")
    secret = folder / "secret"
    secret.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    secret.chmod(0o600)
    settings = {"url": "https://hooks.example/a-secret-place", "secret_file": str(secret)}
    hub = make_hub(folder, events={"targets": {"ops": settings, "chat": settings}})
    for kind, subject, states in (
        ("job.failed", "j-1", {"ops": "dead", "chat": "delivered"}),
        ("rollout.halted", "r-1", {"ops": "waiting"}),
        ("hub.trouble", "<b>broker", {}),
    ):
        lay(hub, kind, subject, states)
    return hub


def lay(hub: HubFixture, kind: str, subject: str, states: dict[str, str]) -> str:
    now = hub.clock()
    with hub.hub.session() as session:
        event = record(session, Event(kind=kind, subject=subject, message=f"{subject} <i>failed", data={"n": 1}), now)
        session.flush()
        row = find(session, event)
        assert row is not None
        row.spread_at = now
        for target, state in states.items():
            tried = {"at": now, "status": 503, "error": "over <loaded>", "took_s": 0.25}
            log = [] if state == "waiting" else [tried]
            session.add(
                EventDelivery(
                    event=event,
                    target=target,
                    state=state,
                    tries=8 * bool(log),
                    next_at=now,
                    expires_at=now + 9,
                    log=log,
                    updated_at=now,
                )
            )
    return event


def event_of(hub: HubFixture, state: str) -> str:
    with hub.hub.reading() as session:
        return session.exec(select(EventDelivery.event).where(EventDelivery.state == state)).one()


def test_what_did_not_arrive_comes_first_and_says_why(told: HubFixture) -> None:
    page = Person(told).open("/events").text
    said = text_of(page)
    assert said.index("Given up") < said.index("All events") < said.index("Targets")
    assert "ops: dead, 8 tries answered with status 503: over <loaded>" in said and "chat: delivered" in said
    assert "ops: waiting" in said and "nobody" in said
    assert 'href="/jobs/j-1"' in page and 'href="/rollouts/r-1"' in page and "<b>broker" not in page
    assert "a-secret-place" not in page and "hooks.example" in said
    assert "1 event did not reach ops" in text_of(Person(told).open("/").text)


def test_a_viewer_sees_events_and_neither_targets_nor_buttons(told: HubFixture) -> None:
    viewer = Person(told, told.token(role="viewer"))
    page, one = viewer.open("/events").text, viewer.open(f"/events/{event_of(told, 'dead')}").text
    assert "Targets" not in text_of(page) and "hooks.example" not in page and "/act/" not in page + one
    assert "over <loaded>" in text_of(one)


def test_events_are_sought_by_kind_and_state(told: HubFixture) -> None:
    person = Person(told)
    assert "r-1" not in text_of(person.open("/events?state=dead").text)
    said = text_of(person.open("/events?kind=rollout.halted").text)
    assert "r-1" in said and "j-1" not in said and "Given up" not in said
    assert "no event is called 'x'" in text_of(person.open("/events?kind=x").text)
    assert person.open("/events?state=lost").status_code == 400
    assert "Nothing is like this" in text_of(person.open("/events?kind=key.expiring").text)
    assert person.open("/events/evt_none").status_code == 404


def test_an_event_is_sent_again_where_it_was_given_up(told: HubFixture) -> None:
    event = lay(told, "alarm.raised", "digits", {"ops": "dead", "chat": "dead"})
    operator = Person(told, told.token(role="operator"))
    path = f"/act/events/{event}/resend"
    page = operator.open(path).text
    assert "where it was given up: chat, ops" in text_of(page)
    assert operator.send(path, page, target="").headers["location"] == f"/events/{event}"
    with told.hub.reading() as session:
        rows = session.exec(select(EventDelivery).where(EventDelivery.event == event)).all()
    assert {(row.target, row.state, row.tries) for row in rows} == {("ops", "waiting", 0), ("chat", "waiting", 0)}
    assert sorted(audited(told, "event.resend")[-1].detail["targets"]) == ["chat", "ops"]
    assert operator.send(path, page, target="").status_code == 409  # by now it shows what is no longer so
    assert operator.send(path, target="nowhere").status_code == 404


def test_a_test_is_sent_to_a_target_that_there_is(told: HubFixture) -> None:
    operator = Person(told, told.token(role="operator"))
    answer = operator.send("/act/event-targets/ops/test")
    assert answer.status_code == 303
    assert "a test of ops, asked for by operator:" in text_of(operator.open(answer.headers["location"]).text)
    assert "has no target" in text_of(operator.open("/act/event-targets/none/test").text)


def test_a_hub_without_targets_says_that_nobody_is_told(hub: HubFixture) -> None:
    said = text_of(Person(hub).open("/events").text)
    assert "Nothing happened yet" in said and "Nobody is told" in said


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_event_leads_to_a_page_that_there_is(kind: str) -> None:
    event = EventInfo(number=1, id="e", at=0.0, kind=kind, subject="a/b", message="m")
    place = words.place_of(event)
    assert place in ("/drift", "/access", "", "/rollouts/a%2Fb", "/jobs/a%2Fb", "/devices/a%2Fb")
    assert (place == "") == kind.startswith(("hub.", "event."))


def test_what_came_of_a_delivery_is_said() -> None:
    tried = [Try(at=1.0, status=500), Try(at=2.0, error="no route")]
    assert [words.came_of(one) for one in tried] == ["answered with status 500", "no route"]
    delivery = DeliveryInfo(target="ops", state="dead", tries=2, log=tried)
    assert words.last_word(delivery) == "no route" and words.badge_of(delivery) == "dead, 2 tries"
    assert words.last_word(DeliveryInfo(target="ops", state="delivered", log=tried)) == ""

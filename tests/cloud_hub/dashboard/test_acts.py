"""The rules of every act: roles, forms of our own, once, not out of date, and nothing lost that was typed."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import delete
from sqlmodel import select

from cloud_hub.app import routers
from cloud_hub.context import Hub
from cloud_hub.dashboard.acts.register import ACTS
from cloud_hub.errors import UnreachableError
from cloud_hub.rollouts import orders
from cloud_hub.store.tables import AuditEntry, RolloutRow, SentForm
from tests.support.acting import Person, audited, text_of
from tests.support.hub import HubFixture

ROLLOUTS: dict[int, dict[str, Any]] = {}
PAUSE, RETRY, PROMOTE = (f"/act/rollouts/r-2/{order}" for order in ("pause", "retry", "promote"))


@pytest.fixture
def busy_hub(shared_hub: HubFixture) -> HubFixture:
    """The same hub for every test, with the rollout as it was and nothing in the audit log."""
    with shared_hub.hub.session() as session:
        row = session.get_one(RolloutRow, "r-2")
        before = ROLLOUTS.setdefault(id(shared_hub), row.model_dump())
        row.sqlmodel_update(before)
        session.add(row)
        for kind in (AuditEntry, SentForm):
            session.execute(delete(kind))
    return shared_hub


def state_of(hub: HubFixture, rollout: str = "r-2") -> str:
    with hub.hub.reading() as session:
        return session.get_one(RolloutRow, rollout).state


def test_an_act_asks_for_the_role_that_the_api_asks_for() -> None:
    routes = [route for router in routers() for route in router.routes if isinstance(route, APIRoute)]
    for act in ACTS:
        method, _, path = act.like.partition(" ")
        (route,) = [route for route in routes if route.path == path and method in route.methods]
        roles = [
            role
            for one in route.dependant.dependencies
            for credential in getattr(one.call, "security", [])
            for role in credential.get("operator", [])
        ]
        assert roles == [act.role], act.path


def test_each_act_is_refused_to_those_below_its_role(hub: HubFixture) -> None:
    people = {role: Person(hub, hub.token(role=role)) for role in ("viewer", "operator")}
    csrf = {role: person.hidden(person.open("/").text)["csrf"] for role, person in people.items()}
    for act in ACTS:
        path = re.sub(r"\{[^}]*\}", "1", act.path)
        assert hub.client.post(path, data={}, follow_redirects=False).headers["location"] == "/login"
        for role in ("viewer",) if act.role == "operator" else ("viewer", "operator"):
            client = people[role].client
            for answer in (client.get(path), client.post(path, data={"csrf": csrf[role]})):
                assert answer.status_code == 403 and f"this needs the role {act.role}" in text_of(answer.text), path


def test_where_there_is_nothing_to_act_on_the_form_says_how_to_begin(hub: HubFixture) -> None:
    page = text_of(Person(hub).open("/act/devices").text)
    assert "There is no channel yet: fleet channel create NAME makes one" in page


def test_a_form_is_carried_out_once(busy_hub: HubFixture) -> None:
    person = Person(busy_hub)
    page = person.open(RETRY).text
    assert person.send(RETRY, page).status_code == 303
    again = person.send(RETRY, page)
    assert again.status_code == 409 and "nothing was done" in text_of(again.text)
    # Sent again from the same moment, as by a double click, only the form's own id tells that it is the same.
    page = person.open(PAUSE).text
    assert person.send(PAUSE, page, reason="the first click").status_code == 303
    # Resumed in between, so that nothing else could refuse the second.
    busy_hub.client.post("/api/v1/rollouts/r-2/resume", json={}, headers=busy_hub.auth())
    again = person.send(PAUSE, page, reason="the second click")
    assert again.status_code == 409 and "sent before" in text_of(again.text)
    assert state_of(busy_hub) == "running" and len(audited(busy_hub, "rollout.pause")) == 1


def test_a_form_that_was_refused_may_be_corrected_and_lost_nothing(busy_hub: HubFixture) -> None:
    person = Person(busy_hub)
    page = person.open(PROMOTE).text
    refused = person.send(PROMOTE, page, reason=" ")
    assert refused.status_code == 400 and "needs a reason" in text_of(refused.text)
    busy_hub.client.post("/api/v1/rollouts/r-2/pause", json={}, headers=busy_hub.auth())
    late = person.send(PROMOTE, page, reason="<b>the</b> evidence of last week")
    assert late.status_code == 409 and 'role="alert"' in late.text
    assert "running at stage 2 of 3, attempt 1 was shown, and now it is paused at stage 2" in text_of(late.text)
    assert "&lt;b&gt;the&lt;/b&gt; evidence of last week</textarea>" in late.text or (
        'value="&lt;b&gt;the&lt;/b&gt; evidence of last week"' in late.text
    )
    assert person.send(PROMOTE, late.text, reason="the evidence of last week").status_code == 303
    assert audited(busy_hub, "rollout.promote")[0].detail == {"reason": "the evidence of last week"}


def test_a_form_of_another_cookie_or_without_an_id_is_refused(busy_hub: HubFixture) -> None:
    person, other = Person(busy_hub), Person(busy_hub, busy_hub.token(role="admin"))
    foreign = other.send(PAUSE, person.open(PAUSE).text)
    assert foreign.status_code == 403 and "out of date" in text_of(foreign.text)
    page = person.open(PAUSE).text
    for wrong in ("", "x" * 32, "0" * 31, "ä" * 32):
        assert person.send(PAUSE, page, form=wrong).status_code == 400
    assert state_of(busy_hub) == "running"


def test_of_an_order_that_could_not_be_published_the_page_says_that_it_is_kept(
    busy_hub: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, abort = Person(busy_hub), "/act/rollouts/r-2/abort"

    def fail(hub: Hub, rollout: str, *, actor: str) -> None:
        raise UnreachableError(f"object store: Timeout at {rollout}")

    monkeypatch.setattr(orders, "carry_out", fail)
    page = person.open(abort).text
    answer = person.send(abort, page)
    assert "the order to abort is kept" in text_of(answer.text) and state_of(busy_hub) == "aborted"
    assert person.send(abort, page).status_code == 409, "the form is used up"


def test_old_forms_are_cleared_away(busy_hub: HubFixture) -> None:
    person = Person(busy_hub)
    assert person.send(PAUSE).status_code == 303
    busy_hub.clock.advance(3 * 86_400)
    assert person.send("/act/rollouts/r-2/resume").status_code == 303
    with busy_hub.hub.reading() as session:
        assert len(list(session.exec(select(SentForm)))) == 1


def test_what_is_not_there_is_said_on_a_page(busy_hub: HubFixture) -> None:
    person = Person(busy_hub)
    for path in ("/act/rollouts/r-9/pause", "/act/rollouts/%3Cb%3E/pause"):
        answer = person.open(path)
        assert answer.status_code == 404 and "no rollout" in text_of(answer.text) and "<b>" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("digits", ["9" * 400, "9" * 5000, "000000000001" + "9" * 400])
def test_a_number_of_hundreds_of_digits_is_refused_in_words(busy_hub: HubFixture, digits: str) -> None:
    person = Person(busy_hub)
    assert person.open(f"/act/models/digits/releases/{digits}/withdraw").status_code == 404
    answer = person.send("/act/devices/kiosk-1/commands/logs", lines=digits, minutes="0")
    assert answer.status_code == 400 and "too long for a number" in text_of(answer.text)


def test_an_order_to_a_rollout_is_carried_out_and_written_down(busy_hub: HubFixture) -> None:
    operator = Person(busy_hub, busy_hub.token(role="operator"))
    for order, state in (
        ("retry", "running"),
        ("pause", "paused"),
        ("resume", "running"),
        ("promote", "running"),
        ("abort", "aborted"),
    ):
        answer = operator.send(f"/act/rollouts/r-2/{order}", reason="seen enough")
        assert (answer.status_code, answer.headers["location"]) == (303, "/rollouts/r-2")
        assert state_of(busy_hub) == state
        (entry,) = audited(busy_hub, f"rollout.{order}")
        assert entry.subject == "r-2" and entry.actor.startswith("operator:")


def test_an_order_that_means_nothing_now_has_no_button(busy_hub: HubFixture) -> None:
    person = Person(busy_hub)
    page = person.open("/act/rollouts/r-1/pause").text
    assert "is halted: nothing to pause, it has ended" in text_of(page) and "Pause the rollout" not in text_of(page)
    assert person.send("/act/rollouts/r-1/pause", page).status_code == 409


def test_the_stage_and_the_attempt_are_checked_where_the_order_is_given(busy_hub: HubFixture) -> None:
    """Two who promote at the same moment have both passed the check of the page."""
    person = Person(busy_hub)
    page = person.open(PROMOTE).text
    for field, words in (("stage", "is at stage 2 by now"), ("attempt", "is at attempt 1 by now")):
        answer = person.send(PROMOTE, page, reason="r", **{field: 0 if field == "attempt" else 1})
        assert answer.status_code == 409 and words in text_of(answer.text)
    assert person.send(PROMOTE, page, reason="r", stage="x").status_code == 400
    assert audited(busy_hub, "rollout.promote") == []

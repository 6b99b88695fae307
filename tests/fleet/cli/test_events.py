"""`fleet event`: what is listed, shown, tested and sent again."""

from __future__ import annotations

PAGE_END = {"next": None}
DEAD = {"target": "ops", "state": "dead", "tries": 8, "log": [{"at": 1.0, "status": 500, "error": "it answered 500"}]}
EVENT = {
    "number": 1,
    "id": "evt_1",
    "at": 1e9,
    "kind": "job.failed",
    "subject": "j1",
    "message": "retrain of digits failed",
    "deliveries": [DEAD],
}


def way(state: str, *statuses: int) -> dict[str, object]:
    log = [{"at": 1.0, "status": status, "error": "" if status == 204 else "oh"} for status in statuses]
    return {**EVENT, "id": "evt_2", "deliveries": [{"target": "ops", "state": state, "tries": len(log), "log": log}]}


def test_events_are_listed_with_what_became_of_them(fleet, hub) -> None:
    hub.on("GET", "/events?kind=job.failed&state=dead", {"items": [EVENT], **PAGE_END})
    listed = fleet("event", "list", "--kind", "job.failed", "--state", "dead", "--output", "csv").out
    assert "job.failed,j1,retrain of digits failed,ops: dead after 8 tries (it answered 500)" in listed


def test_one_event_is_shown_with_each_try(fleet, hub) -> None:
    hub.on("GET", "/events/evt_1", EVENT)
    outcome = fleet("event", "show", "evt_1")
    assert "retrain of digits failed" in outcome.out and "ops: 500 it answered 500" in outcome.err
    assert fleet("event", "show", "evt_1", "--json").document == EVENT


def test_a_test_waits_for_what_comes_of_it(fleet, hub) -> None:
    hub.on("POST", "/event-tests", way("waiting"), status=201)
    hub.on("GET", "/events/evt_2", way("waiting"), way("delivered", 204))
    assert fleet("event", "test", "ops").code == 0
    assert hub.sent("POST", "/event-tests") == [{"target": "ops"}]


def test_a_test_that_fails_says_why_with_exit_code_1_and_one_without_end_8(fleet, hub) -> None:
    hub.on("POST", "/event-tests", way("waiting"), status=201)
    hub.on("GET", "/events/evt_2", way("waiting", 500))
    outcome = fleet("event", "test", "ops")
    assert outcome.code == 1 and "did not reach ops: oh" in outcome.err
    hub.on("GET", "/events/evt_2", way("waiting"))
    hub._answers["GET", "/api/v1/events/evt_2"].pop(0)
    assert fleet("event", "test", "ops", "--timeout", "5").code == 8


def test_dead_deliveries_are_sent_again(fleet, hub) -> None:
    hub.on("POST", "/events/evt_1/resend", EVENT)
    assert fleet("event", "resend", "evt_1", "--target", "ops").code == 0
    assert hub.sent("POST", "/events/evt_1/resend") == [{"target": "ops"}]


def test_targets_are_listed_by_host(fleet, hub) -> None:
    item = {"name": "ops", "format": "slack", "host": "hooks.slack.com", "kinds": ["*"], "dead": 2}
    hub.on("GET", "/event-targets", {"items": [item], **PAGE_END})
    assert "hooks.slack.com" in fleet("event", "targets").out

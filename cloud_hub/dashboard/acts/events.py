"""Sending an event again, and a test to a target."""

from __future__ import annotations

from cloud_hub.dashboard import places
from cloud_hub.dashboard.acts.forms import Act, ActDone, ActRequest, Button, Form, request_of, select
from cloud_hub.errors import NotFoundError
from cloud_hub.events import answers
from fleet.api.events import EventInfo, NewTest, Resend


def acts() -> list[Act]:
    """Both."""
    return [
        Act(
            path="/act/events/{event}/resend",
            like="POST /api/v1/events/{event}/resend",
            role="operator",
            form=_resend_form,
            do=_resend,
        ),
        Act(
            path="/act/event-targets/{target}/test",
            like="POST /api/v1/event-tests",
            role="operator",
            form=_test_form,
            do=_test,
        ),
    ]


def _standing(event: EventInfo) -> str:
    return ", ".join(f"{one.target} {one.state} after {one.tries}" for one in event.deliveries)


def _resend_form(asked: ActRequest) -> Form:
    event = answers.get(asked.hub, asked.names["event"])
    dead = [one.target for one in event.deliveries if one.state == "dead"]
    choices = [("", f"where it was given up: {', '.join(dead)}")] if dead else []
    choices += [(one.target, f"{one.target} ({one.state})") for one in event.deliveries]
    return Form(
        title="Send an event again",
        says=[
            event.message,
            "It is tried from the first try on, for a day at most, under the same id: a receiver that remembers ids"
            " takes it for the same event.",
        ],
        buttons=[Button(words="Send it again")],
        back=places.event(event.id),
        fields=[select(asked, "target", "To", choices)] if choices else [],
        blocked="" if choices else "it goes to no target",
        seen=_standing(event),
    )


def _resend(asked: ActRequest) -> ActDone:
    wanted = request_of(Resend, {"target": "To"}, target=asked.text("target"))
    event = answers.resend(asked.hub, asked.names["event"], wanted.target, actor=asked.caller.actor)
    return ActDone(location=places.event(event.id))


def _test_form(asked: ActRequest) -> Form:
    target = asked.names["target"]
    if target not in asked.hub.config.events.targets:
        hint = "docs/how-to/be-told.md says how one is set up"
        raise NotFoundError(f"hub.toml has no target {target[:63]!r}", subject="target", hint=hint)
    return Form(
        title=f"Send a test to {target}",
        says=["It is an event of the kind event.test, for this target alone; its page says what came of it."],
        buttons=[Button(words="Send a test")],
        back=places.EVENTS,
    )


def _test(asked: ActRequest) -> ActDone:
    wanted = request_of(NewTest, {}, target=asked.names["target"])
    event = answers.test(asked.hub, wanted.target, actor=asked.caller.actor)
    return ActDone(location=places.event(event.id))

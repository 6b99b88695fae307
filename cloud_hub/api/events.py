"""HTTP: events out, and how they reached their targets."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from cloud_hub.api.access import Admin, HubDep, OperatorUser, Viewer
from cloud_hub.api.bodies import JsonBody
from cloud_hub.api.openapi import errors
from cloud_hub.api.params import PAGE, KeyPath, KeyQuery, LimitQuery, MomentQuery
from cloud_hub.events import answers
from fleet.api.events import EventInfo, EventPage, NewTest, Resend, TargetPage
from fleet.api.types import Int64

router = APIRouter(prefix="/api/v1", tags=["events"])


@router.get("/events")
def list_events(
    hub: HubDep,
    caller: Viewer,
    after: Annotated[Int64, Query()] = 0,
    limit: LimitQuery = PAGE,
    since: MomentQuery = 0.0,
    kind: KeyQuery = "",
    state: Annotated[Literal["", "waiting", "delivered", "dead"], Query()] = "",
) -> EventPage:
    """Events of `since` (Unix seconds) or later, newest first; `after` is the number of the last one seen.

    `kind` leaves out other kinds, `state` those without a delivery in that state.
    """
    return answers.newest(hub, after=after, limit=limit, since=since, kind=kind, state=state)


@router.get("/events/{event}", responses=errors(404))
def show(event: KeyPath, hub: HubDep, caller: Viewer) -> EventInfo:
    """One event with its deliveries and their tries."""
    return answers.get(hub, event)


@router.post("/events/{event}/resend", responses=errors(404, 409))
def resend(event: KeyPath, hub: HubDep, caller: OperatorUser, wanted: Annotated[Resend, JsonBody(Resend)]) -> EventInfo:
    """Try an event's dead deliveries anew, or the one to a target whatever came of it."""
    return answers.resend(hub, event, wanted.target, actor=caller.actor)


@router.get("/event-targets")
def list_targets(hub: HubDep, caller: Admin) -> TargetPage:
    """The targets in this hub's `hub.toml`."""
    return TargetPage(items=answers.targets(hub))


@router.post("/event-tests", status_code=201, responses=errors(404, 429))
def test(hub: HubDep, caller: OperatorUser, wanted: Annotated[NewTest, JsonBody(NewTest)]) -> EventInfo:
    """Send a test to one target."""
    return answers.test(hub, wanted.target, actor=caller.actor)

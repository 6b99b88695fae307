"""Events out: what people were told, what did not reach its target, and one event with every try."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.responses import Response

from cloud_hub.api.params import KeyPath, KeyQuery
from cloud_hub.dashboard.rendering import Framed
from cloud_hub.dashboard.views import events as words
from cloud_hub.events import answers
from cloud_hub.events.kinds import KINDS
from fleet.api.types import Int64

router = APIRouter(prefix="/events", include_in_schema=False)
PAGE, FAILED = 50, 25
State = Annotated[Literal["", "waiting", "delivered", "dead"], Query()]


@router.get("")
def show_list(frame: Framed, after: Annotated[Int64, Query()] = 0, kind: KeyQuery = "", state: State = "") -> Response:
    """Those that were given up, then all or those that are sought, newest first; to admins the targets as well."""
    hub, problem = frame.hub, ""
    if kind and kind not in KINDS:
        kind, problem = "", f"no event is called {kind!r}"
    given = {"kind": kind, "state": state}
    page = answers.newest(hub, after=after, limit=PAGE, since=0.0, **given)
    first = not after and not kind and not state
    dead = answers.newest(hub, after=0, limit=FAILED, since=0.0, kind="", state="dead") if first else None
    return frame.show(
        "events.html",
        page=page,
        dead=dead,
        given=given,
        problem=problem,
        kinds=KINDS,
        more=urlencode({**given, "after": page.next}) if page.next else "",
        targets=answers.targets(hub) if frame.may_administer else None,
        told=bool(hub.config.events.targets),
        words=words,
    )


@router.get("/{event}")
def show(event: KeyPath, frame: Framed) -> Response:
    """One event with its deliveries and their tries."""
    return frame.show("event.html", event=answers.get(frame.hub, event), kinds=KINDS, words=words)

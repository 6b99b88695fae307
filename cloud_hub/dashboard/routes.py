"""The dashboard's routes: `/login`, `/logout`, and those of every page and form."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, FastAPI, Form, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from cloud_hub.api.access import HubDep
from cloud_hub.api.errors import error_response
from cloud_hub.dashboard import access, live
from cloud_hub.dashboard.access import COOKIE, LoginNeeded, Visitor
from cloud_hub.dashboard.acts import routes as acts
from cloud_hub.dashboard.pages import (
    audit,
    commands,
    devices,
    drift,
    events,
    jobs,
    models,
    overview,
    rollouts,
    samples,
    tokens,
)
from cloud_hub.dashboard.rendering import HERE, go_to, render
from cloud_hub.errors import HubError
from cloud_hub.store.moved import ChangeWatcher

router = APIRouter(include_in_schema=False)
PAGES = (overview, devices, commands, rollouts, models, samples, drift, jobs, events, audit, tokens)


def routers() -> list[APIRouter]:
    """Every router of the dashboard, in order of matching; a page goes above, what people do into `acts.register`."""
    return [router, live.router, *(page.router for page in PAGES), acts.router]


def install(app: FastAPI) -> None:
    """Serve the static files and the streams of `app.state.live`; who is not logged in is shown the way to `/login`."""
    app.state.live = live.Live(ChangeWatcher(app.state.hub.engine))
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_exception_handler(LoginNeeded, _to_login)


async def _to_login(request: Request, error: Exception) -> Response:
    if request.headers.get("hx-request") or "text/event-stream" in request.headers.get("accept", ""):
        answer = error_response(request.url.path, "unauthenticated", "nobody is logged in", hint="open /login")
        answer.headers["HX-Redirect"] = "/login"
        return answer
    return go_to("/login")


@router.get("/login")
def login_form(request: Request) -> Response:
    """Ask for an operator token."""
    return render(request, "login.html", problem="")


@router.post("/login")
def login(request: Request, hub: HubDep, token: Annotated[str, Form()] = "") -> Response:
    """Turn an operator token into a cookie."""
    token = token.strip()
    try:
        access.log_in(hub, token)
    except HubError as error:
        return render(request, "login.html", status=error.status, problem=f"{error}.")
    response = go_to("/")
    access.remember(response, token, secure=request.url.scheme == "https")
    return response


@router.post("/logout")
def logout(request: Request, caller: Visitor, csrf: Annotated[str, Form()] = "") -> Response:
    """Forget the cookie; leaving is allowed to every role, but only from our own page."""
    access.check_form(request, csrf)
    response = go_to("/login")
    response.delete_cookie(COOKIE, path="/")
    return response

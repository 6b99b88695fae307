"""The frame around every page: headers, navigation, the words that templates use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Request
from starlette.responses import RedirectResponse, Response
from starlette.templating import Jinja2Templates

from cloud_hub.api.access import HubDep
from cloud_hub.context import Hub
from cloud_hub.dashboard import access, words
from cloud_hub.dashboard.access import COOKIE, Visitor
from cloud_hub.identity.callers import Caller
from cloud_hub.identity.tokens import role_allows

HERE = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PAGES = (
    ("/", "Overview"),
    ("/devices", "Devices"),
    ("/rollouts", "Rollouts"),
    ("/models", "Models"),
    ("/drift", "Drift"),
    ("/jobs", "Jobs"),
    ("/events", "Events"),
    ("/audit", "Audit log"),
    ("/access", "Access"),
)

templates = Jinja2Templates(directory=HERE / "templates")
templates.env.filters |= words.FILTERS


class Frame(NamedTuple):
    """A visitor's request for a page, and what every page knows."""

    request: Request
    hub: Hub
    caller: Caller

    @property
    def is_renewal(self) -> bool:
        """True if the page is there already and only its living parts are asked for again."""
        return "hx-request" in self.request.headers

    @property
    def may_change(self) -> bool:
        """True if the visitor is an operator or an admin."""
        return role_allows(self.caller.role, "operator")

    @property
    def may_administer(self) -> bool:
        """True if the visitor is an admin."""
        return role_allows(self.caller.role, "admin")

    def show(self, name: str, *, status: int = 200, **context: Any) -> Response:
        """A page from a template, with its context beside what every template has."""
        path = self.request.url.path
        shared = {
            "caller": self.caller,
            "may_change": self.may_change,
            "may_administer": self.may_administer,
            "csrf": access.csrf_token(self.request.cookies[COOKIE]),
            "now": self.hub.clock(),
            "pages": PAGES,
            "here": next((href for href, _ in PAGES[1:] if f"{path}/".startswith(f"{href}/")), "/"),
        }
        return render(self.request, name, status=status, **{**shared, **context})


def get_frame(request: Request, hub: HubDep, caller: Visitor) -> Frame:
    """The frame of a visitor who is logged in."""
    return Frame(request, hub, caller)


Framed = Annotated[Frame, Depends(get_frame)]


def render(request: Request, name: str, *, status: int = 200, **context: Any) -> Response:
    """A template as an answer with the headers that every page has."""
    return templates.TemplateResponse(request, name, context, status_code=status, headers=HEADERS)


def go_to(path: str) -> Response:
    """The answer after a form: on to a page."""
    return RedirectResponse(path, status_code=303, headers=HEADERS)

"""The dashboard's visitors: an operator token in an HttpOnly cookie, and a CSRF token on every change."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import Response

from cloud_hub.api.access import HubDep
from cloud_hub.context import Hub
from cloud_hub.errors import ForbiddenError, HubError, UnauthenticatedError
from cloud_hub.identity.callers import Caller, caller_of

COOKIE = "edgeloop"
COOKIE_LIFE_S = 12 * 3600


class LoginNeeded(Exception):
    """Nobody is logged in: the answer is the way to `/login`."""


def operator_of(hub: Hub, token: str) -> Caller:
    """The operator behind a token; UnauthenticatedError for anything else."""
    caller = caller_of(hub, token)
    if caller.kind != "operator":
        raise UnauthenticatedError("this is not an operator token", subject="token", hint="fleet token create --role")
    return caller


def log_in(hub: Hub, token: str) -> None:
    """Write down who logs in; UnauthenticatedError for a token that is no operator's."""
    caller = operator_of(hub, token)
    with hub.session() as session:
        hub.audit(session, caller.actor, "dashboard.login", caller.role)


def get_visitor(request: Request, hub: HubDep) -> Caller:
    """The operator whose cookie came with the request; raises LoginNeeded."""
    token = request.cookies.get(COOKIE, "")
    if not token:
        raise LoginNeeded
    try:
        return operator_of(hub, token)
    except HubError as error:
        raise LoginNeeded from error


Visitor = Annotated[Caller, Depends(get_visitor)]


def csrf_token(token: str) -> str:
    """Return the token that a form must carry; only a page that was made for this cookie knows it."""
    return hmac.new(token.encode(), b"edgeloop dashboard csrf", hashlib.sha256).hexdigest()


def check_form(request: Request, given: str) -> None:
    """Raise ForbiddenError unless the form comes from a page that was made for this cookie."""
    expected = csrf_token(request.cookies.get(COOKIE, ""))
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise ForbiddenError("this form is out of date", subject="csrf", hint="load the page again")


def remember(response: Response, token: str, *, secure: bool) -> None:
    """Put the token into the cookie; scripts cannot read it and other sites cannot send it."""
    response.set_cookie(COOKIE, token, max_age=COOKIE_LIFE_S, httponly=True, samesite="strict", secure=secure, path="/")

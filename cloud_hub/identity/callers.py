"""The callers of the hub, and what each may do."""

from __future__ import annotations

from math import inf

from msgspec import Struct
from sqlalchemy import bindparam
from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ForbiddenError, UnauthenticatedError
from cloud_hub.identity import tokens
from cloud_hub.store.tables import Device

_IN_FORCE = select(Device.id).where(Device.id == bindparam("device"), col(Device.revoked_at).is_(None))


class Caller(Struct, frozen=True, kw_only=True):
    """A caller. `kind` is device, operator, application or mirror; `actor` goes into the audit log."""

    kind: str
    id: str
    role: str = ""
    scope: str = ""
    rate_per_s: float = 0.0

    @property
    def actor(self) -> str:
        """`operator:<token id>`, `device:<id>`, …"""
        return f"{self.kind}:{self.id}"


def caller_of(hub: Hub, text: str) -> Caller:
    """The caller behind a bearer token (a device's short token, or `el1.…`).

    Raises UnauthenticatedError; a revoked device is refused here, at once.
    """
    return authenticated(hub, text).caller


class Authenticated(Struct, frozen=True):
    """A caller, and when their token ends (Unix seconds)."""

    caller: Caller
    ends_at: float = inf


def authenticated(hub: Hub, text: str) -> Authenticated:
    """Authenticate as `caller_of` does, for a caller who keeps the answer: it holds until its end, or `access_version`
    rises.

    Raises:
        UnauthenticatedError: the token is not valid.
    """
    if not (text.isascii() and text.isprintable()):
        raise UnauthenticatedError("the token is not valid", subject="token", hint="copy it whole")
    now = hub.clock()
    if hub.device_tokens.looks_like(text):
        device_id = hub.device_tokens.verify_token(text, now=now)
        with hub.reading() as session:
            enrolled = session.exec(_IN_FORCE, params={"device": device_id}).first() is not None
        if not enrolled:
            raise UnauthenticatedError("this device is not enrolled any more", subject=device_id, hint="enrol it again")
        return Authenticated(Caller(kind="device", id=device_id), hub.device_tokens.ends_at(text))
    with hub.reading() as session:
        row = tokens.verify_token(session, text, now=now)
        if row.kind == "claim":
            raise UnauthenticatedError("a claim token only enrols a device", subject="token")
        caller = Caller(kind=row.kind, id=row.id, role=row.role, scope=row.scope, rate_per_s=row.rate_per_s)
        return Authenticated(caller, inf if row.expires_at is None else row.expires_at)


def check_may_infer(caller: Caller, model: str) -> None:
    """Raise ForbiddenError unless `caller` may ask `model`: a device, an operator, or an application in its scope."""
    check_may_ask(caller)
    if caller.kind == "application" and not tokens.scope_allows(caller.scope, model):
        raise ForbiddenError(f"this token does not allow inference on {model!r}", subject=caller.actor)


def check_may_ask(caller: Caller) -> None:
    """Raise ForbiddenError unless `caller` may ask some model: a device, an operator or an application."""
    if caller.kind == "mirror":
        raise ForbiddenError("a mirror's token does not allow inference", subject=caller.actor)
    if caller.kind == "operator" and not tokens.role_allows(caller.role, "operator"):
        raise ForbiddenError("inference needs the role operator", subject=caller.actor)


def check_may_name_code(caller: Caller) -> None:
    """Raise ForbiddenError unless admin: a recipe or a label check is code that the hub's machine runs (ADR 0007)."""
    if not tokens.role_allows(caller.role, "admin"):
        what = "naming a recipe or a label check needs the role admin"
        raise ForbiddenError(what, subject=caller.actor, hint="use an admin's token")


def check_may_make_token(caller: Caller, kind: str) -> None:
    """Raise ForbiddenError unless `caller`, an operator, may make a token of this kind."""
    if kind in ("operator", "mirror") and not tokens.role_allows(caller.role, "admin"):
        raise ForbiddenError(f"{kind} tokens are made by an admin", subject=caller.actor)

"""What routes ask for in their signature: the hub, and a caller who may do this.

    def route(hub: HubDep, caller: OperatorUser) -> …

`Viewer`, `OperatorUser`, `Admin`: operators by role. `DeviceCaller`: an enrolled device, not revoked.
`Fetcher`: a device, mirror or operator, for what is public to the fleet. Inference routes call
`authorize_inference(hub, request, model)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, Request
from msgspec import Struct

from cloud_hub.context import Hub
from cloud_hub.errors import BusyError, ForbiddenError, InvalidError, TooLargeError, UnauthenticatedError
from cloud_hub.identity import tokens
from cloud_hub.store.tables import Device
from fleet.protocol.codec import DECODE_ERRORS

T = TypeVar("T")


class Caller(Struct, frozen=True, kw_only=True):
    """Who calls. `kind` is device, operator, application or mirror; `actor` goes into the audit log."""

    kind: str
    id: str
    role: str = ""
    scope: str = ""
    rate_per_s: float = 0.0

    @property
    def actor(self) -> str:
        """`operator:<token id>`, `device:<id>`, …"""
        return f"{self.kind}:{self.id}"


def get_hub(request: Request) -> Hub:
    """The hub of this application."""
    hub: Hub = request.app.state.hub
    return hub


HubDep = Annotated[Hub, Depends(get_hub)]


def caller_of(hub: Hub, text: str) -> Caller:
    """The caller behind a bearer token (a device's short token, or `el1.…`).

    Raises UnauthenticatedError; a revoked device is refused here, at once.
    """
    now = hub.clock()
    if hub.device_tokens.looks_like(text):
        device_id = hub.device_tokens.verify_token(text, now=now)
        with hub.reading() as session:
            device = session.get(Device, device_id)
        if device is None or device.revoked_at is not None:
            raise UnauthenticatedError("this device is not enrolled any more", subject=device_id, hint="enrol it again")
        return Caller(kind="device", id=device_id)
    with hub.reading() as session:
        row = tokens.verify_token(session, text, now=now)
        if row.kind == "claim":
            raise UnauthenticatedError("a claim token only enrols a device", subject="token")
        return Caller(kind=row.kind, id=row.id, role=row.role, scope=row.scope, rate_per_s=row.rate_per_s)


def bearer(request: Request) -> str:
    """The token of the Authorization header."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise UnauthenticatedError("no token was sent", subject="authorization", hint="send `Authorization: Bearer …`")
    return text.strip()


def get_caller(request: Request, hub: HubDep) -> Caller:
    """Whoever calls, with any valid credential."""
    return caller_of(hub, bearer(request))


AnyCaller = Annotated[Caller, Depends(get_caller)]


def require_role(role: str) -> Callable[[Caller], Caller]:
    """A dependency that lets operators of at least `role` pass."""

    def check(caller: AnyCaller) -> Caller:
        if caller.kind != "operator" or not tokens.role_allows(caller.role, role):
            raise ForbiddenError(
                f"this needs the role {role}", subject=caller.actor, hint=f"use a token of role {role}"
            )
        return caller

    return check


Viewer = Annotated[Caller, Depends(require_role("viewer"))]
OperatorUser = Annotated[Caller, Depends(require_role("operator"))]
Admin = Annotated[Caller, Depends(require_role("admin"))]


def require_device(caller: AnyCaller) -> str:
    """The device's id."""
    if caller.kind != "device":
        raise ForbiddenError("only a device may call this", subject=caller.actor)
    return caller.id


DeviceCaller = Annotated[str, Depends(require_device)]


def require_fetcher(caller: AnyCaller) -> Caller:
    """A device, a mirror or an operator."""
    if caller.kind not in ("device", "mirror", "operator"):
        raise ForbiddenError("an application token does not read releases", subject=caller.actor)
    return caller


Fetcher = Annotated[Caller, Depends(require_fetcher)]


class RateLimiter:
    """A token bucket per caller, holding one second's worth; time comes in as seconds."""

    def __init__(self) -> None:
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, key: str, rate_per_s: float, now: float) -> None:
        """Count one call; BusyError when `key` is over its rate."""
        burst = max(1.0, rate_per_s)
        level, at = self._levels.get(key, (burst, now))
        level = min(burst, level + (now - at) * rate_per_s)
        if level < 1.0:
            self._levels[key] = (level, now)
            raise BusyError(
                f"more than {rate_per_s:g} requests per second", subject=key, hint="slow down, or ask for a higher rate"
            )
        self._levels[key] = (level - 1.0, now)


def authorize_inference(hub: Hub, request: Request, model: str) -> Caller:
    """Who asks `model` for an answer: a device, an operator, or an application whose scope covers it.

    Raises UnauthenticatedError, ForbiddenError, or BusyError over the token's rate.
    """
    caller = caller_of(hub, bearer(request))
    if caller.kind == "mirror" or (caller.kind == "application" and not tokens.scope_allows(caller.scope, model)):
        raise ForbiddenError(f"this token does not allow inference on {model!r}", subject=caller.actor)
    if caller.kind == "operator" and not tokens.role_allows(caller.role, "operator"):
        raise ForbiddenError("inference needs the role operator", subject=caller.actor)
    if caller.rate_per_s > 0:
        limiter: RateLimiter = request.app.state.rate_limiter
        limiter.take(caller.actor, caller.rate_per_s, hub.clock())
    return caller


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body, refused above `limit` bytes before it is gathered whole."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLargeError(f"the body has {declared} bytes, at most {limit} are allowed", subject="body")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise TooLargeError(f"the body has more than {limit} bytes", subject="body")
    return bytes(body)


def decode(body: bytes, kind: type[T]) -> T:
    """A JSON request body as a struct; unknown fields are refused when the struct forbids them."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except DECODE_ERRORS as error:
        raise InvalidError(f"request body: {error}", subject="body") from error


def page(items: list[Any], next_cursor: object = None) -> dict[str, Any]:
    """The form of every list."""
    return {"items": items, "next": next_cursor}

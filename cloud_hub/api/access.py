"""The parameters that a route asks for in its signature: the hub, and a caller who may do this.

    def route(hub: HubDep, caller: OperatorUser) -> …

`Viewer`, `OperatorUser`, `Admin`: operators by role. `DeviceCaller`: the id of an enrolled device, not revoked.
`Fetcher`: a device, mirror or operator, for what is public to the fleet. `ModelCaller`: who may ask the model in the
path for an answer, `InferenceCaller` who may ask any. Each says in `security` which credential it wants; the OpenAPI
document repeats that.
"""

# Annotations stay values here: FastAPI cannot resolve text in the methods of objects.

from typing import Annotated

from fastapi import Depends, Request

from cloud_hub.context import Hub
from cloud_hub.errors import ForbiddenError
from cloud_hub.identity.admission import Admission, token_in
from cloud_hub.identity.callers import Caller, caller_of
from cloud_hub.identity.tokens import role_allows

Security = list[dict[str, list[str]]]

SCHEMES = {
    "operator": "An operator's token (`fleet token create --role`), with the role viewer, operator or admin.",
    "device": "A device's own short-lived token (`POST /device/token`).",
    "application": "An application's token (`fleet token create --scope infer:NAME`).",
    "mirror": "A mirror's token (`fleet token create --mirror`), for signed files and blobs.",
}


async def get_hub(request: Request) -> Hub:
    """The hub of this application. What only looks at values is a coroutine here: each plain function would cost
    FastAPI the way to a thread and back, at every call."""
    hub: Hub = request.app.state.hub
    return hub


HubDep = Annotated[Hub, Depends(get_hub)]


def bearer(request: Request) -> str:
    """The token of the Authorization header."""
    return token_in(request.headers.get("authorization", ""))


def get_caller(request: Request, hub: HubDep) -> Caller:
    """Return the caller, with any valid credential."""
    return caller_of(hub, bearer(request))


AnyCaller = Annotated[Caller, Depends(get_caller)]


class Access:
    """A dependency that lets some callers pass; `security` is what OpenAPI says of it."""

    security: Security


class RequireRole(Access):
    """Lets operators of at least `role` pass."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.security = [{"operator": [role]}]

    async def __call__(self, caller: AnyCaller) -> Caller:
        """The caller."""
        if caller.kind != "operator" or not role_allows(caller.role, self.role):
            raise ForbiddenError(
                f"this needs the role {self.role}", subject=caller.actor, hint=f"use a token of role {self.role}"
            )
        return caller


class RequireDevice(Access):
    """Lets devices pass."""

    security: Security = [{"device": []}]  # noqa: RUF012 (never changed)

    async def __call__(self, caller: AnyCaller) -> str:
        """The device's id."""
        if caller.kind != "device":
            raise ForbiddenError("only a device may call this", subject=caller.actor)
        return caller.id


class RequireFetcher(Access):
    """Lets devices, mirrors and operators pass."""

    security: Security = [{"device": []}, {"mirror": []}, {"operator": ["viewer"]}]  # noqa: RUF012 (never changed)

    async def __call__(self, caller: AnyCaller) -> Caller:
        """The caller."""
        if caller.kind not in ("device", "mirror", "operator"):
            raise ForbiddenError("an application token does not read releases", subject=caller.actor)
        return caller


class RequireModel(Access):
    """Lets pass who may ask the model in the path for an answer, within the token's rate."""

    security: Security = [{"application": []}, {"device": []}, {"operator": ["operator"]}]  # noqa: RUF012

    async def __call__(self, request: Request, model: str) -> Caller:
        """The caller; on the event loop, since most of them are known already."""
        admission: Admission = request.app.state.admission
        caller = await admission.get(request.headers.get("authorization", ""))
        admission.take(caller, model)
        return caller


class RequireInference(Access):
    """Lets pass who may ask some model for an answer; which ones is up to the route."""

    security = RequireModel.security

    async def __call__(self, request: Request) -> Caller:
        """The caller."""
        admission: Admission = request.app.state.admission
        caller = await admission.get(request.headers.get("authorization", ""))
        admission.enter(caller)
        return caller


Viewer = Annotated[Caller, Depends(RequireRole("viewer"))]
OperatorUser = Annotated[Caller, Depends(RequireRole("operator"))]
Admin = Annotated[Caller, Depends(RequireRole("admin"))]
DeviceCaller = Annotated[str, Depends(RequireDevice())]
Fetcher = Annotated[Caller, Depends(RequireFetcher())]
InferenceCaller = Annotated[Caller, Depends(RequireInference())]
ModelCaller = Annotated[Caller, Depends(RequireModel())]

"""Models: the names that applications ask for."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from msgspec import UNSET, Struct, UnsetType, field
from sqlmodel import Session, col, select
from starlette.concurrency import run_in_threadpool

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, ForbiddenError
from cloud_hub.identity.tokens import role_allows
from cloud_hub.routes.deps import Caller, HubDep, OperatorUser, Viewer, decode, page
from cloud_hub.store.tables import Model, Release
from cloud_hub.trust.rows import get_model, interface_release
from fleet.protocol.interface import interface_of
from fleet.protocol.names import check_name

router = APIRouter(prefix="/api/v1/models", tags=["models"])


class NewModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model; `recipe` trains it, `policy` holds retrain, gate and drift settings."""

    name: str
    recipe: str = ""
    policy: dict[str, Any] = field(default_factory=dict)


class Changes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `PATCH` may change; `min_release` raises the floor, `policy` is merged by its first level."""

    recipe: str | UnsetType = UNSET
    policy: dict[str, Any] | UnsetType = UNSET
    min_release: int | UnsetType = UNSET


@router.get("")
def list_models(hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """All models."""
    with hub.reading() as session:
        rows = session.exec(select(Model).order_by(col(Model.name))).all()
        return page([describe(session, row) for row in rows])


@router.post("", status_code=201)
async def create(request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Make a model."""
    wanted = decode(await request.body(), NewModel)
    check_name(wanted.name, "model")
    if wanted.recipe:
        _check_may_name_code(caller)
    return await run_in_threadpool(_create, hub, wanted, caller)


def _create(hub: Hub, wanted: NewModel, caller: Caller) -> dict[str, Any]:
    with hub.session() as session:
        if session.get(Model, wanted.name) is not None:
            raise ConflictError(f"model {wanted.name!r} exists", subject=wanted.name, hint="change it with PATCH")
        row = Model(name=wanted.name, recipe=wanted.recipe, policy=wanted.policy, created_at=hub.clock())
        session.add(row)
        hub.audit(session, caller.actor, "model.create", wanted.name, {"recipe": wanted.recipe})
        return describe(session, row)


@router.get("/{name}")
def show(name: str, hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """One model with its interface: what every release of it keeps, and the release that fixes it."""
    with hub.reading() as session:
        document = describe(session, get_model(session, name))
        current = interface_release(session, name)
    if current is not None:
        fixed = msgspec.to_builtins(interface_of(current.manifest))
        document["interface"] = {"release": current.number, **fixed}
    return document


@router.patch("/{name}")
async def change(name: str, request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Change a model."""
    wanted = decode(await request.body(), Changes)
    if wanted.recipe is not UNSET:
        _check_may_name_code(caller)
    return await run_in_threadpool(_change, hub, name, wanted, caller)


def _change(hub: Hub, name: str, wanted: Changes, caller: Caller) -> dict[str, Any]:
    if wanted.min_release is not UNSET:
        hub.publisher.set_floor(name, wanted.min_release, actor=caller.actor)
    with hub.session() as session:
        row = get_model(session, name, lock=True)  # a policy is merged into what another change has left
        if wanted.recipe is not UNSET:
            row.recipe = wanted.recipe
        if wanted.policy is not UNSET:
            row.policy = {**row.policy, **wanted.policy}
        session.add(row)
        hub.audit(session, caller.actor, "model.change", name, {"recipe": row.recipe, "policy": row.policy})
        return describe(session, row)


def _check_may_name_code(caller: Caller) -> None:
    """A recipe is a module that a worker will import and run: admins say which (ADR 0007)."""
    if not role_allows(caller.role, "admin"):
        raise ForbiddenError("naming a recipe needs the role admin", subject=caller.actor, hint="use an admin's token")


def describe(session: Session, row: Model) -> dict[str, Any]:
    """A model as the API shows it, with its releases' numbers by status."""
    releases: dict[str, list[int]] = {}
    found = select(Release.number, Release.status).where(Release.model == row.name).order_by(col(Release.number))
    for number, status in session.exec(found):
        releases.setdefault(status, []).append(number)
    return {**row.model_dump(), "releases": releases}

"""`/api/v1/rollouts`: create, look, and order."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from fastapi import APIRouter, Request
from msgspec import Struct, field
from sqlmodel import col, select
from starlette.concurrency import run_in_threadpool

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, NotFoundError
from cloud_hub.rollouts.create import cannot_follow, create_rollout
from cloud_hub.rollouts.engine import carry_out, locked, read, store
from cloud_hub.routes.deps import HubDep, OperatorUser, Viewer, decode, page
from cloud_hub.store.tables import RolloutEvent, RolloutRow
from fleet.rollouts import machine
from fleet.rollouts.errors import TransitionError

router = APIRouter(prefix="/api/v1/rollouts", tags=["rollouts"])


class NewRollout(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST`: stages in per cent, rising to 100."""

    model: str
    release: int
    channel: str
    stages: list[float] = field(default_factory=lambda: [10.0, 50.0, 100.0])
    guard: dict[str, Any] = field(default_factory=dict)
    soak_s: float = 0.0
    groups: list[str] = field(default_factory=list)


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an order."""

    reason: str = ""


@router.get("")
def list_rollouts(hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """All rollouts, newest first."""
    with hub.reading() as session:
        rows = session.exec(select(RolloutRow).order_by(col(RolloutRow.created_at).desc())).all()
        return page([describe(row) for row in rows])


@router.post("", status_code=201)
async def create(request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Start a rollout; the answer says how many devices cannot follow it."""
    wanted = decode(await request.body(), NewRollout)
    fields = {name: getattr(wanted, name) for name in NewRollout.__struct_fields__}
    row = await run_in_threadpool(create_rollout, hub, **fields, actor=caller.actor)
    with hub.reading() as session:
        left = cannot_follow(session, row.model, row.release, row.channel)
    return {**describe(row), "cannot_follow": left}


@router.get("/{rollout}")
def show(rollout: str, hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """One rollout with its progress and evidence."""
    with hub.reading() as session:
        return describe(_get(session.get(RolloutRow, rollout), rollout))


@router.get("/{rollout}/events")
def events(rollout: str, hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """What happened, in order."""
    with hub.reading() as session:
        _get(session.get(RolloutRow, rollout), rollout)
        rows = session.exec(
            select(RolloutEvent).where(RolloutEvent.rollout == rollout).order_by(col(RolloutEvent.id))
        ).all()
        return page([row.model_dump() for row in rows])


@router.post("/{rollout}/{order}")
async def give_order(rollout: str, order: str, request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Pause, resume, abort or retry."""
    if order not in get_args(machine.Order):
        raise NotFoundError(f"no order {order!r}", subject=order, hint="pause, resume, abort or retry")
    reason = decode(await request.body(), Order).reason
    return await run_in_threadpool(apply_order, hub, rollout, order, reason, caller.actor)


def apply_order(hub: Hub, rollout: str, order: Any, reason: str, actor: str) -> dict[str, Any]:
    """Carry out an operator's order; ConflictError when the rollout's state does not allow it."""
    with hub.session() as session:
        row = locked(session, rollout)
        plan, progress = read(row)
        try:
            decision = machine.apply(plan, progress, order, hub.clock(), reason=reason)
        except TransitionError as error:
            raise ConflictError(str(error), subject=rollout, hint=error.hint) from error
        store(session, row, decision, hub.clock())
        hub.audit(session, actor, f"rollout.{order}", rollout, {"reason": reason})
    carry_out(hub, rollout, actor=actor)
    return describe(row)


def describe(row: RolloutRow) -> dict[str, Any]:
    """A rollout as the API shows it."""
    plan, progress = read(row)
    return {
        **row.model_dump(),
        "stage": progress.stage + 1,
        "stages": [stage.share_ppm / 10_000 for stage in plan.stages],
        "exposed_devices": progress.exposed,
        "verdict": msgspec.to_builtins(progress.verdict),
    }


def _get(row: RolloutRow | None, rollout: str) -> RolloutRow:
    if row is None:
        raise NotFoundError(f"no rollout {rollout!r}", subject=rollout, hint="see: fleet rollout status")
    return row

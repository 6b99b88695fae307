"""`/api/v1/rollouts`: create, look, and order."""

from __future__ import annotations

from typing import Annotated, cast, get_args

from fastapi import APIRouter

from cloud_hub.api.access import HubDep, OperatorUser, Viewer
from cloud_hub.api.bodies import JsonBody
from cloud_hub.api.openapi import errors
from cloud_hub.api.params import PAGE, KeyPath, KeyQuery, LimitQuery, MomentQuery
from cloud_hub.errors import NotFoundError
from cloud_hub.rollouts import orders
from fleet.api.rollouts import (
    CreatedRollout,
    NewRollout,
    Order,
    RolloutEventPage,
    RolloutForecast,
    RolloutInfo,
    RolloutOrder,
    RolloutPage,
)

router = APIRouter(prefix="/api/v1/rollouts", tags=["rollouts"])


@router.get("", responses=errors(404))
def list_rollouts(
    hub: HubDep,
    caller: Viewer,
    after: KeyQuery = "",
    limit: LimitQuery = PAGE,
    since: MomentQuery = 0.0,
    device: KeyQuery = "",
) -> RolloutPage:
    """Rollouts, newest first: created at `since` (Unix seconds) or later, and of `device`, which has reported of them.

    `after` is the id of the last one seen.
    """
    return orders.list_rollouts(hub, after=after, limit=limit, since=since, device=device)


@router.post("", status_code=201, responses=errors(404, 409))
def create(hub: HubDep, caller: OperatorUser, wanted: Annotated[NewRollout, JsonBody(NewRollout)]) -> CreatedRollout:
    """Start a rollout; one that could never finish is refused with what to add (see `plan`)."""
    return orders.start(hub, wanted, actor=caller.actor)


@router.post("/plan", responses=errors(404, 409))
def plan(hub: HubDep, caller: Viewer, wanted: Annotated[NewRollout, JsonBody(NewRollout)]) -> RolloutForecast:
    """Forecast a rollout (devices, distinct inputs, time) and name the conditions that it lacks; nothing is started."""
    return orders.plan(hub, wanted)


@router.get("/{rollout}", responses=errors(404))
def show(rollout: KeyPath, hub: HubDep, caller: Viewer) -> RolloutInfo:
    """One rollout with its progress and evidence."""
    return orders.show_rollout(hub, rollout)


@router.get("/{rollout}/events", responses=errors(404))
def events(rollout: KeyPath, hub: HubDep, caller: Viewer) -> RolloutEventPage:
    """List the rollout's events, the oldest first."""
    return RolloutEventPage(items=orders.list_events(hub, rollout))


@router.post("/{rollout}/{order}", responses=errors(404, 409))
def give_order(
    rollout: KeyPath,
    order: KeyPath,
    hub: HubDep,
    caller: OperatorUser,
    wanted: Annotated[RolloutOrder, JsonBody(RolloutOrder)],
) -> RolloutInfo:
    """Pause, resume, abort, retry, approve or promote (which needs a reason)."""
    if order not in get_args(Order):
        raise NotFoundError(f"no order {order!r}", subject=order, hint=" or ".join(get_args(Order)))
    return orders.apply_order(hub, rollout, cast(Order, order), wanted.reason, caller.actor, wanted.stage)

"""Models: the names that applications ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from cloud_hub.api.access import HubDep, OperatorUser, Viewer
from cloud_hub.api.bodies import JsonBody
from cloud_hub.api.openapi import errors
from cloud_hub.api.params import KeyPath
from cloud_hub.drift import labelled
from cloud_hub.identity.callers import check_may_name_code
from cloud_hub.jobs.retraining import check_recipe
from cloud_hub.trust import models
from fleet.api.models import ModelChanges, ModelDetail, ModelInfo, ModelPage, NewModel

router = APIRouter(prefix="/api/v1/models", tags=["models"])


@router.get("")
def list_models(hub: HubDep, caller: Viewer) -> ModelPage:
    """All models."""
    return ModelPage(items=models.list_models(hub))


@router.post("", status_code=201, responses=errors(404, 409))
def create(hub: HubDep, caller: OperatorUser, wanted: Annotated[NewModel, JsonBody(NewModel)]) -> ModelInfo:
    """Make a model."""
    if wanted.recipe or wanted.policy.labels.check:
        check_may_name_code(caller)
    if wanted.recipe:
        check_recipe(hub, wanted.recipe)
    return models.create_model(hub, wanted, actor=caller.actor)


@router.get("/{name}", responses=errors(404))
def show(name: KeyPath, hub: HubDep, caller: Viewer) -> ModelDetail:
    """One model with its interface: what every release of it keeps, and the release that fixes it. `answers` says how
    right its default releases are by people's labels."""
    return models.show_model(hub, name).model_copy(update={"answers": labelled.of_model(hub, name)})


@router.patch("/{name}", responses=errors(404, 409))
def change(
    name: KeyPath, hub: HubDep, caller: OperatorUser, wanted: Annotated[ModelChanges, JsonBody(ModelChanges)]
) -> ModelInfo:
    """Change a model: its recipe, its policy, its floor, or the release whose interface holds."""
    if wanted.recipe is not None or wanted.policy.labels.check:
        check_may_name_code(caller)
    if wanted.recipe:
        check_recipe(hub, wanted.recipe)
    return models.change_model(hub, name, wanted, actor=caller.actor)


@router.delete("/{name}", responses=errors(404, 409))
def delete(name: KeyPath, hub: HubDep, caller: OperatorUser) -> ModelInfo:
    """Delete a model with its releases, when no channel, pin, rollout, job, token, sample or snapshot names it."""
    return models.delete_model(hub, name, actor=caller.actor)

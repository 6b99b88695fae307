"""Models and their releases as the API shows them, and what an operator changes about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError
from cloud_hub.store import benchmarks
from cloud_hub.store.tables import Model, Release
from cloud_hub.trust import disputes, gone
from cloud_hub.trust.rows import get_model, get_release, interface_release, label_task, status_in_words
from fleet.api.models import ModelChanges, ModelDetail, ModelInfo, ModelInterface, NewModel
from fleet.api.releases import MeasuredFigures, ReleaseDetail, ReleaseInfo
from fleet.protocol.interface import interface_of
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.names import check_name
from fleet.protocol.task import task_in_words
from fleet.tasks import Task


def list_models(hub: Hub) -> list[ModelInfo]:
    """Every model by name."""
    with hub.reading() as session:
        return _described(session, session.exec(select(Model).order_by(col(Model.name))).all())


def create_model(hub: Hub, wanted: NewModel, *, actor: str) -> ModelInfo:
    """Create a model.

    Args:
        hub: the hub.
        wanted: its name, recipe and policy.
        actor: as in the audit log.

    Raises:
        ConflictError: there is one of this name.
    """
    check_name(wanted.name, "model")
    with hub.session() as session:
        if session.get(Model, wanted.name) is not None:
            raise ConflictError(
                f"model {wanted.name!r} exists",
                subject=wanted.name,
                hint=f"change it: fleet model change {wanted.name}",
            )
        first = gone.first_release(session, wanted.name)
        row = Model(
            name=wanted.name,
            recipe=wanted.recipe,
            policy=wanted.policy.document(),
            created_at=hub.clock(),
            next_release=first,
            min_release=first,
        )
        session.add(row)
        hub.audit(session, actor, "model.create", wanted.name, {"recipe": wanted.recipe})
        return _described(session, [row])[0]


def change_model(hub: Hub, name: str, wanted: ModelChanges, *, actor: str) -> ModelInfo:
    """Change recipe or policy, raise the floor, or choose the release whose interface holds.

    Args:
        hub: the hub.
        name: of the model.
        wanted: the fields to change; those that are not given stay.
        actor: as in the audit log.

    Raises:
        NotFoundError: no such model or release. ConflictError: the floor would sink, a channel needs what is below it,
            or the interface of a release that is not out is chosen.
    """
    if wanted.min_release is not None:
        hub.publisher.set_floor(name, wanted.min_release, actor=actor)
    with hub.session() as session:
        row = get_model(session, name, lock=True)  # a policy is merged into what another change has left
        if wanted.recipe is not None:
            row.recipe = wanted.recipe
        row.policy = {**row.policy, **wanted.policy.document()}
        if wanted.interface_from is not None:
            _choose_interface(hub, session, row, wanted.interface_from, actor)
        session.add(row)
        hub.audit(session, actor, "model.change", name, {"recipe": row.recipe, "policy": row.policy})
        return _described(session, [row])[0]


def show_model(hub: Hub, name: str) -> ModelDetail:
    """One model with its interface; NotFoundError when there is none."""
    with hub.reading() as session:
        (known,) = _described(session, [get_model(session, name)])
        current = interface_release(session, name)
    fixed = None
    if current is not None:
        interface = interface_of(current.manifest)
        fixed = ModelInterface(
            release=current.number,
            inputs=list(interface.inputs),
            outputs=list(interface.outputs),
            labels=list(interface.labels),
            sketch_id=interface.sketch_id,
            task=task_in_words(interface.named_task),
            preprocess=list(interface.preprocess),
        )
    return ModelDetail(**{field: getattr(known, field) for field in ModelInfo.model_fields}, interface=fixed)


def task_of_labels(hub: Hub, name: str) -> Task[Any] | None:
    """The task that says what a label of the model may be, None where no release names one; NotFoundError."""
    with hub.reading() as session:
        get_model(session, name)
        return label_task(session, name)


def delete_model(hub: Hub, name: str, *, actor: str) -> ModelInfo:
    """Delete a model that nothing names; raises as `trust.removal` does.

    Args:
        hub: the hub.
        name: of the model.
        actor: as in the audit log.
    """
    with hub.reading() as session:
        (known,) = _described(session, [get_model(session, name)])
    hub.publisher.delete_model(name, actor=actor)
    return known


def list_releases(hub: Hub, model: str) -> list[ReleaseInfo]:
    """Every release of a model, newest first; NotFoundError when there is no such model."""
    statement = select(Release).where(Release.model == model).order_by(col(Release.number).desc())
    with hub.reading() as session:
        get_model(session, model)
        return [ReleaseInfo.model_validate(row) for row in session.exec(statement)]


def show_release(hub: Hub, model: str, number: int) -> ReleaseDetail:
    """Return one release with its manifest and, per hardware class, its figures as devices measured them.

    Args:
        hub: the hub.
        model: its name.
        number: of the release.

    Raises:
        NotFoundError: there is none.
    """
    with hub.reading() as session:
        row = get_release(session, model, number)
        figures = benchmarks.by_hardware(session, model, number)
    return ReleaseDetail(
        **row.model_dump(exclude={"manifest"}),
        manifest=decode_manifest(row.manifest) if row.manifest else None,
        measured=[MeasuredFigures.model_validate(found) for found in figures],
    )


def _choose_interface(hub: Hub, session: Session, row: Model, number: int, actor: str) -> None:
    """Make the interface of release `number` the model's. Who relied on another one is left behind: it is audited."""
    status = status_in_words(session, row.name, number)
    if status != "published":
        raise ConflictError(f"release {number} of {row.name!r} is {status}", subject=f"{row.name}/{number}")
    differing = disputes.differing(session, row, number)
    detail = {"release": number, "before": row.interface_from, "differing": list(differing)}
    row.interface_from = number
    hub.audit(session, actor, "model.interface", row.name, detail)


def _described(session: Session, rows: Sequence[Model]) -> list[ModelInfo]:
    """Models with the numbers of their releases by status, and of those that disagree."""
    releases: dict[str, dict[str, list[int]]] = defaultdict(dict)
    wanted = select(Release.model, Release.number, Release.status).order_by(col(Release.number))
    for model, number, status in session.exec(wanted.where(col(Release.model).in_([row.name for row in rows]))):
        releases[model].setdefault(status, []).append(number)
    disputed = disputes.among(session, rows)
    return [
        ModelInfo(**row.model_dump(), releases=releases[row.name], disputed=list(disputed.get(row.name, ())))
        for row in rows
    ]

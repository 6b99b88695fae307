"""Creates retrain jobs, and checks that their parts are there; light, so that the server need not load torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sqlmodel import Session

from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.jobs import queue
from cloud_hub.rollouts.create import known_groups
from cloud_hub.rollouts.members import scoped
from cloud_hub.store.tables import ChannelRow, Job, Snapshot
from cloud_hub.trust.disputes import refuse_disputed
from cloud_hub.trust.rows import get_model
from fleet.api.jobs import NewJob, RetrainOptions, TuneOptions
from fleet.protocol.channel import decode_channel


def create_job(hub: Hub, wanted: NewJob, *, actor: str) -> Job:
    """Queue a job of any kind.

    Args:
        hub: the hub.
        wanted: its kind, model and options.
        actor: as in the audit log.

    Raises:
        InvalidError: the kind is not known; what the kind's own checks raise comes through.
    """
    if wanted.kind != "retrain":
        raise InvalidError(f"no kind of job {wanted.kind!r}", subject=wanted.kind, hint="known: retrain")
    return check_retrain(hub, wanted.model, wanted.payload, actor=actor)


def check_retrain(hub: Hub, model: str, options: RetrainOptions, *, actor: str, alone: bool = False) -> Job:
    """Queue a retrain job, after checking what can be checked now; with `alone` only beside no other of the model.

    Args:
        hub: the hub.
        model: to retrain.
        options: of the retrain.
        actor: as in the audit log.
        alone: refuse it beside another job of the model.

    Raises:
        NotFoundError: no such model, recipe, snapshot, channel or group, or the channel does not hold the model.
        InvalidError: the model has no recipe, or the snapshot is of another model.
        ConflictError: `alone`, and another is under way; releases of the model disagree on its interface.
    """
    check_options(hub, model, options)
    return queue.submit(hub, "retrain", model=model, payload=options.model_dump(), actor=actor, alone=alone)


def check_tune(hub: Hub, model: str, options: TuneOptions, *, actor: str) -> Job:
    """Queue a search, after the checks of `check_retrain` for its snapshot and for the retrain that may follow.

    Args:
        hub: the hub.
        model: to search for.
        options: of the search, and of the retrain that may follow.
        actor: as in the audit log.
    """
    check_options(hub, model, RetrainOptions(snapshot=options.snapshot))
    if options.retrain is not None:
        check_options(hub, model, options.retrain)
    return queue.submit(hub, "tune", model=model, payload=options.model_dump(), actor=actor)


def check_options(hub: Hub, model: str, options: RetrainOptions) -> None:
    """The checks of `check_retrain`, without a job.

    Args:
        hub: the hub.
        model: to retrain.
        options: of the retrain.

    Raises:
        NotFoundError: no such model, recipe, snapshot, channel or group.
        InvalidError: the model has no recipe, or the snapshot is of another model.
    """
    with hub.reading() as session:
        owner = get_model(session, model)
        if not owner.recipe:
            hint = f"set one: fleet model change {model} --recipe RECIPE"
            raise InvalidError(f"model {model!r} has no recipe", subject=model, hint=hint)
        check_recipe(hub, owner.recipe)
        refuse_disputed(session, owner)
        if options.snapshot:
            row = session.get(Snapshot, options.snapshot)
            if row is None:
                raise NotFoundError(f"no snapshot {options.snapshot}", subject=options.snapshot)
            if row.model != model:
                raise InvalidError(f"snapshot {row.id} is of {row.model!r}", subject=row.id)
        if options.channel:
            _check_channel(session, options.channel, model, rolls_out=options.rollout is not None)
        if options.rollout is not None:
            secret = hub.device_tokens.group_secret
            known_groups(
                scoped(session, secret, (), channel=options.channel), options.channel, options.rollout.groups, secret
            )


def check_recipe(hub: Hub, name: str) -> None:
    """Raise NotFoundError unless the recipe is there: a file in `DIR/recipes`, or a module, which is not run.

    Whether it is a recipe at all is known only when a worker runs it: `load_recipe` says so.
    """
    if name.endswith(".py"):
        folder = hub.config.directory / "recipes"
        if Path(name).name != name or not (folder / name).is_file():
            raise NotFoundError(
                f"no recipe {name} in {folder}", subject=name, hint="put its file there, by a bare name"
            )
    elif not _has_module(name):
        raise NotFoundError(
            f"no recipe {name}: there is no such module here",
            subject=name,
            hint=f"install it beside the hub, or put its file into {hub.config.directory / 'recipes'} and name NAME.py",
        )


def _has_module(name: str) -> bool:
    """Tell whether a module can be imported: found part by part by the importer's own finders, so that nothing runs."""
    path: Sequence[str] | None = None
    for place, part in enumerate(parts := name.split(".")):
        found = _below(".".join(parts[: place + 1]), path) if part.isidentifier() else None
        if found is None:
            return False
        path = found
    return True


def _below(module: str, path: Sequence[str] | None) -> Sequence[str] | None:
    """Return the folders that hold a module's parts, empty for one that is no package; None for no module."""
    try:
        specs = (finder.find_spec(module, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next(filter(None, specs), None)
    except KeyError:  # a folder without __init__.py in a package that is not loaded, for which the finder asks
        inner = [Path(folder) / module.rpartition(".")[2] for folder in path or ()]
        return [str(folder) for folder in inner if folder.is_dir()] or None
    if spec is None:
        return None
    found = spec.submodule_search_locations
    return () if found is None else list(getattr(found, "_path", found))


def _check_channel(session: Session, channel: str, model: str, *, rolls_out: bool) -> None:
    """A rollout begins at the channel's release of the model; without one it would be refused after the training."""
    row = session.get(ChannelRow, channel)
    if row is None:
        raise NotFoundError(f"no channel {channel!r}", subject=channel, hint="list them: fleet channel list")
    if rolls_out and model not in decode_channel(row.document).models:
        raise NotFoundError(
            f"channel {channel!r} does not hold model {model!r}",
            subject=channel,
            hint=f"set its first release: fleet channel set {channel} --model {model} --release N",
        )

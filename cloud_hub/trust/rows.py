"""Lookups in the rows that trust rests on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud_hub.errors import ConflictError, NotFoundError
from cloud_hub.store.tables import ChannelRow, Metadata, Model, Release, Setting
from cloud_hub.trust import disputes, repository
from cloud_hub.trust.checks import Current
from fleet.protocol.channel import decode_channel
from fleet.protocol.codec import encode_json
from fleet.protocol.interface import differences
from fleet.protocol.manifest import Floor, decode_manifest
from fleet.tasks import Task, of_manifest

COMMAND_SETTING = "command-target"


def latest_metadata(session: Session) -> dict[str, bytes]:
    """The newest body of each role."""
    newest = (
        select(Metadata.role, func.max(col(Metadata.version)).label("version")).group_by(col(Metadata.role)).subquery()
    )
    same = (col(Metadata.role) == newest.c.role) & (col(Metadata.version) == newest.c.version)
    return {row.role: row.body for row in session.exec(select(Metadata).join(newest, same))}


def get_model(session: Session, name: str, *, lock: bool = False) -> Model:
    """Return the model, its row locked until the transaction ends, if asked.

    Args:
        session: an open one.
        name: of the model.
        lock: hold its row until the transaction ends.

    Raises:
        NotFoundError: there is none.
    """
    row = session.get(Model, name, with_for_update=lock)
    if row is None:
        raise NotFoundError(f"no model {name!r}", subject=name, hint=f"make it: fleet model create {name}")
    return row


def get_release(session: Session, model: str, number: int) -> Release:
    """Return the release.

    Args:
        session: an open one.
        model: its name.
        number: of the release.

    Raises:
        NotFoundError: there is none.
    """
    row = session.get(Release, (model, number))
    if row is None:
        hint = f"see: fleet release list --model {model}"
        raise NotFoundError(f"no release {number} of {model!r}", subject=f"{model}/{number}", hint=hint)
    return row


def label_task(session: Session, model: str) -> Task[Any] | None:
    """The task that says what a label of the model may be; None where no release names one."""
    current = interface_release(session, model)
    return None if current is None or current.manifest.named_task is None else of_manifest(current.manifest)


def class_count(session: Session, model: str) -> int | None:
    """Return the number of classes that the model's answers tell apart; None when no release says.

    The names of the classes say it, else the width of the only output.
    """
    current = interface_release(session, model)
    if current is None:
        return None
    manifest = current.manifest
    shapes = [output.shape for output in manifest.outputs]
    width = shapes[0][-1] if len(shapes) == 1 and 1 <= len(shapes[0]) <= 2 else 0
    return len(manifest.labels) or (width if width > 1 else None)


def status_in_words(session: Session, model: str, number: int) -> str:
    """Return a release's status, for somebody who wants to name it: `published`, `unknown`, `below the floor`, …

    Args:
        session: an open one.
        model: its name.
        number: one that somebody names; there may be no such release.
    """
    row = session.get(Release, (model, number))
    if row is None:
        return "unknown"
    owner = session.get(Model, model)
    if owner is not None and number < owner.min_release:
        return "below the floor"
    return row.status


def interface_release(session: Session, model: str) -> Current | None:
    """The release that fixes the model's interface: its first live one does, and all that follow keep it.

    A hub of 0.1 may hold releases that disagree. So it is the newest release that a channel has as its default, else
    the newest published one; where the operator has chosen, among those that have the chosen interface. What was
    withdrawn, or lies below the floor, fixes nothing.
    """
    owner = get_model(session, model)
    live = select(Release).where(
        Release.model == model, Release.status == "published", col(Release.number) >= owner.min_release
    )
    chosen = disputes.like_chosen(session, owner)
    if chosen is not None:
        live = live.where(col(Release.number).in_(chosen))
    entries = (decode_channel(row.document).models.get(model) for row in session.exec(select(ChannelRow)))
    served = {entry.release for entry in entries if entry is not None}
    newest = live.order_by(col(Release.number).desc()).limit(1)
    found = session.exec(newest.where(col(Release.number).in_(served))).first() or session.exec(newest).first()
    return None if found is None else Current(found.number, decode_manifest(found.manifest))


def refuse_stranger(session: Session, model: str, number: int) -> None:
    """Raise ConflictError unless a published release has the model's interface: nobody is sent to another one.

    A release that lacks a sketch or a task that newer ones have is one to which a fleet may go back.

    Args:
        session: an open one.
        model: its name.
        number: of a release that a channel or a pin is to name.
    """
    current = interface_release(session, model)
    if current is None or current.number == number:
        return
    fixed, asked = (disputes.ports(get_release(session, model, one)) for one in (current.number, number))
    found = differences(fixed, asked)
    if found:
        raise ConflictError(
            f"release {number} has not the interface of model {model!r}, fixed by release {current.number}: "
            f"{'; '.join(found)}",
            subject=f"{model}/{number}",
            hint=f"where release {number} is right: fleet model change {model} --interface-from {number}",
        )


def floor_document(session: Session, model: str) -> bytes:
    """The content of `models/<model>/floor.json`."""
    owner = get_model(session, model)
    gone = session.exec(select(Release.number).where(Release.model == model, Release.status == "withdrawn")).all()
    return encode_json(Floor(min_release=owner.min_release, withdrawn=tuple(sorted(gone))))


def all_targets(session: Session) -> dict[str, bytes]:
    """Path and bytes of every target that is listed now."""
    signed = select(Release).where(col(Release.status).in_(("published", "withdrawn")))
    files = {repository.release_target(row.model, row.number): row.manifest for row in session.exec(signed)}
    for model in {path.split("/")[1] for path in files}:
        files[repository.floor_target(model)] = floor_document(session, model)
    for channel in session.exec(select(ChannelRow)):
        files[repository.channel_target(channel.name)] = channel.document
    command = session.get(Setting, COMMAND_SETTING)
    if command is not None:
        files[repository.COMMAND_TARGET] = command.value.encode()
    return files

"""Channels: the signed desired state. Every change is a new signed version."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from msgspec import UNSET, Struct, UnsetType
from sqlmodel import col, select
from starlette.concurrency import run_in_threadpool

from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.routes.deps import HubDep, OperatorUser, Viewer, decode, page
from cloud_hub.store.tables import ChannelRow
from fleet.protocol.channel import (
    Audit,
    Bench,
    Channel,
    Fetching,
    ModelEntry,
    Probation,
    Routing,
    Sampling,
    Telemetry,
)
from fleet.protocol.names import check_name

router = APIRouter(prefix="/api/v1/channels", tags=["channels"])
_SECTIONS: dict[str, type[Struct]] = {
    "routing": Routing,
    "audit": Audit,
    "sampling": Sampling,
    "probation": Probation,
    "bench": Bench,
}


class EntryChanges(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What changes for one model; a policy's fields that are not given keep their values."""

    release: int | UnsetType = UNSET
    routing: dict[str, Any] | UnsetType = UNSET
    audit: dict[str, Any] | UnsetType = UNSET
    sampling: dict[str, Any] | UnsetType = UNSET
    probation: dict[str, Any] | UnsetType = UNSET
    bench: dict[str, Any] | UnsetType = UNSET
    spread_s: int = 0


class ChannelChanges(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What changes for the whole channel."""

    telemetry: dict[str, Any] | UnsetType = UNSET
    fetching: dict[str, Any] | UnsetType = UNSET
    spread_s: int = 0


@router.get("")
def list_channels(hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """All channels with their documents."""
    with hub.reading() as session:
        return page([shown(row) for row in session.exec(select(ChannelRow).order_by(col(ChannelRow.name)))])


@router.get("/{name}")
def show(name: str, hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """One channel."""
    with hub.reading() as session:
        row = session.get(ChannelRow, name)
    if row is None:
        raise NotFoundError(f"no channel {name!r}", subject=name, hint="list them: fleet channel list")
    return shown(row)


@router.put("/{name}/models/{model}")
async def set_model(name: str, model: str, request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Set a model's default release and policies; the channel is made when it does not exist."""
    check_name(model, "model")
    wanted = decode(await request.body(), EntryChanges)

    def change(channel: Channel) -> Channel:
        entry = changed_entry(channel.models.get(model), wanted, f"{name}/{model}")
        return msgspec.structs.replace(channel, models={**channel.models, model: entry})

    return await _publish(hub, name, change, caller.actor, wanted.spread_s, create=True)


@router.patch("/{name}")
async def set_channel(name: str, request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Set how devices of the channel report and fetch."""
    wanted = decode(await request.body(), ChannelChanges)

    def change(channel: Channel) -> Channel:
        fields: dict[str, Any] = {}
        if wanted.telemetry is not UNSET:
            fields["telemetry"] = merged(channel.telemetry, wanted.telemetry, Telemetry, "telemetry")
        if wanted.fetching is not UNSET:
            fields["fetching"] = merged(channel.fetching, wanted.fetching, Fetching, "fetching")
        return msgspec.structs.replace(channel, **fields)

    return await _publish(hub, name, change, caller.actor, wanted.spread_s, create=False)


async def _publish(hub: HubDep, name: str, change: Any, actor: str, spread_s: int, *, create: bool) -> dict[str, Any]:
    if not 0 <= spread_s <= 86_400:
        raise InvalidError("spread_s lies between 0 and 86400", subject="spread_s")
    channel = await run_in_threadpool(
        hub.publisher.change_channel, name, change, actor=actor, spread_s=spread_s, create=create
    )
    return {"name": name, "version": channel.version, "document": msgspec.to_builtins(channel)}


def changed_entry(entry: ModelEntry | None, wanted: EntryChanges, subject: str) -> ModelEntry:
    """The model's entry after the change.

    Raises:
        InvalidError: a new entry without a release, or a policy field of the wrong type.
        ConflictError: another default while a rollout runs, or another auditor (it is pinned).
    """
    if entry is None:
        if wanted.release is UNSET:
            raise InvalidError("a new model on a channel needs a release", subject=subject, hint="give --release N")
        entry = ModelEntry(release=wanted.release)
    fields: dict[str, Any] = {}
    if wanted.release is not UNSET and wanted.release != entry.release:
        if entry.rollout is not None:
            raise ConflictError(
                f"rollout {entry.rollout.id} is running",
                subject=subject,
                hint=f"fleet rollout abort {entry.rollout.id}",
            )
        fields["release"] = wanted.release
    for name, kind in _SECTIONS.items():
        given = getattr(wanted, name)
        if given is not UNSET:
            fields[name] = merged(getattr(entry, name), given, kind, name)
    audit = fields.get("audit")
    if entry.rollout is not None and audit is not None and audit.auditor != entry.audit.auditor:
        raise ConflictError("the auditor is pinned while a rollout runs", subject=subject, hint="wait, or abort it")
    return msgspec.structs.replace(entry, **fields)


def merged(old: Struct, given: dict[str, Any], kind: type[Struct], subject: str) -> Any:
    """`old` with the given fields; InvalidError names a field that is unknown or of the wrong type."""
    current = msgspec.to_builtins(old)
    unknown = sorted(given.keys() - current.keys())
    if unknown:
        hint = f"one of: {', '.join(sorted(current))}"
        raise InvalidError(f"{subject} has no field {unknown[0]!r}", subject=subject, hint=hint)
    try:
        return msgspec.convert({**current, **given}, kind)
    except msgspec.ValidationError as error:
        raise InvalidError(f"{subject}: {error}", subject=subject) from error


def shown(row: ChannelRow) -> dict[str, Any]:
    """A channel as the API shows it."""
    return {
        "name": row.name,
        "version": row.version,
        "updated_at": row.updated_at,
        "spread_s": row.spread_s,
        "document": msgspec.json.decode(row.document),
    }

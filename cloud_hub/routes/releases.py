"""Releases: publishing, looking, withdrawing, and signatures made elsewhere."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Request
from msgspec import Struct
from sqlmodel import col, select
from starlette.concurrency import run_in_threadpool

from cloud_hub import measured
from cloud_hub.errors import InvalidError
from cloud_hub.routes.deps import HubDep, OperatorUser, Viewer, decode, page, read_body
from cloud_hub.store.tables import Release
from cloud_hub.trust.rows import get_model, get_release
from fleet.protocol.manifest import MANIFEST_LIMIT

router = APIRouter(prefix="/api/v1/models/{model}/releases", tags=["releases"])


class Withdrawal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a release is withdrawn."""

    reason: str


class OutsideSignature(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hex Ed25519 signature over the payload of `GET …/signing`, and the version it was for."""

    key_id: str
    signature: str
    version: int


@router.post("", status_code=201)
async def publish(
    model: str,
    request: Request,
    hub: HubDep,
    caller: OperatorUser,
    x_note: Annotated[str, Header()] = "",
    end_monitoring: bool = False,
) -> dict[str, Any]:
    """Publish the manifest in the body as the model's next release; its blobs are uploaded before.

    Inputs, outputs, classes and sketch encoder must be the model's. `end_monitoring` allows a release without
    a drift sketch where the model had one.
    """
    manifest = await read_body(request, MANIFEST_LIMIT)
    row = await run_in_threadpool(
        hub.publisher.publish_release,
        model,
        manifest,
        actor=caller.actor,
        note=x_note,
        ends_monitoring=end_monitoring,
    )
    return {"model": row.model, "number": row.number, "status": row.status}


@router.get("")
def list_releases(model: str, hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """All releases of a model, newest first."""
    with hub.reading() as session:
        get_model(session, model)
        statement = select(Release).where(Release.model == model).order_by(col(Release.number).desc())
        return page([shown(row) for row in session.exec(statement)])


@router.get("/{number}")
def show(model: str, number: int, hub: HubDep, caller: Viewer) -> dict[str, Any]:
    """One release with its manifest and, per hardware class, what devices measured of it."""
    with hub.reading() as session:
        row = get_release(session, model, number)
        figures = measured.by_hardware(session, model, number)
    manifest = msgspec.json.decode(row.manifest) if row.manifest else None
    return {**shown(row), "manifest": manifest, "measured": msgspec.to_builtins(figures)}


@router.post("/{number}/withdraw")
async def withdraw(model: str, number: int, request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Forbid a release for ever."""
    wanted = decode(await request.body(), Withdrawal)
    row = await run_in_threadpool(hub.publisher.withdraw, model, number, wanted.reason, actor=caller.actor)
    return shown(row)


@router.get("/{number}/signing")
def signing(model: str, number: int, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """What the holder of the release key has to sign (Ed25519 over the decoded `payload`)."""
    wanted = hub.publisher.signing(model, number)
    return {
        "payload": base64.b64encode(wanted.payload).decode(),
        "version": wanted.version,
        "key_id": wanted.key_id,
    }


@router.post("/{number}/signature")
async def sign(model: str, number: int, request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Publish with a signature made elsewhere."""
    wanted = decode(await request.body(), OutsideSignature)
    try:
        bytes.fromhex(wanted.signature)
    except ValueError:
        raise InvalidError("the signature is not hexadecimal", subject="signature") from None
    row = await run_in_threadpool(
        hub.publisher.accept_signature,
        model,
        number,
        key_id=wanted.key_id,
        signature=wanted.signature,
        version=wanted.version,
        actor=caller.actor,
    )
    return shown(row)


def shown(row: Release) -> dict[str, Any]:
    """A release as lists show it."""
    return row.model_dump(exclude={"manifest"})

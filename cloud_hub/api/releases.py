"""Releases: publishing, looking, withdrawing, and signatures made elsewhere."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.concurrency import run_in_threadpool

from cloud_hub.api.access import HubDep, OperatorUser, Viewer
from cloud_hub.api.bodies import JsonBody, read_upload
from cloud_hub.api.openapi import errors, takes
from cloud_hub.api.params import KeyPath, NumberPath
from cloud_hub.cards.facts import gather
from cloud_hub.cards.markdown import card
from cloud_hub.trust import models
from cloud_hub.trust.manifest_patches import keep_manifest_patches
from fleet.api.releases import (
    OutsideSignature,
    PublishedRelease,
    ReleaseCard,
    ReleaseDetail,
    ReleaseInfo,
    ReleasePage,
    SigningPayload,
    Withdrawal,
)
from fleet.api.types import NO_NUL, TEXT_LIMIT
from fleet.protocol.manifest import MANIFEST_LIMIT, Manifest

router = APIRouter(prefix="/api/v1/models/{model}/releases", tags=["releases"])


@router.post("", status_code=201, responses=errors(404, 409, 504), openapi_extra=takes(Manifest))
async def publish(
    model: KeyPath,
    request: Request,
    hub: HubDep,
    caller: OperatorUser,
    x_note: Annotated[str, Header(max_length=TEXT_LIMIT, pattern=NO_NUL)] = "",
    end_monitoring: bool = False,
) -> PublishedRelease:
    """Publish the manifest in the body as the model's next release; its blobs are uploaded before.

    Inputs, outputs, classes and sketch encoder must be the model's. `end_monitoring` allows a release without
    a drift sketch where the model had one.
    """
    manifest = await read_upload(request, MANIFEST_LIMIT)
    row = await run_in_threadpool(
        hub.publisher.publish_release,
        model,
        manifest,
        actor=caller.actor,
        note=x_note,
        ends_monitoring=end_monitoring,
    )
    await run_in_threadpool(keep_manifest_patches, hub, model, row.number)
    return PublishedRelease.model_validate(row)


@router.get("", responses=errors(404))
def list_releases(model: KeyPath, hub: HubDep, caller: Viewer) -> ReleasePage:
    """All releases of a model, newest first."""
    return ReleasePage(items=models.list_releases(hub, model))


@router.get("/{number}", responses=errors(404))
def show(model: KeyPath, number: NumberPath, hub: HubDep, caller: Viewer) -> ReleaseDetail:
    """One release with its manifest and, per hardware class, what devices measured of it."""
    return models.show_release(hub, model, number)


@router.get("/{number}/card", responses=errors(404, 409))
def show_card(model: KeyPath, number: NumberPath, hub: HubDep, caller: Viewer) -> ReleaseCard:
    """The release's model card as Markdown: intended use, data, metrics with intervals, verdict, limits, lineage."""
    return ReleaseCard(model=model, number=number, markdown=card(gather(hub, model, number), at=hub.clock()))


@router.post("/{number}/withdraw", responses=errors(404, 409))
def withdraw(
    model: KeyPath,
    number: NumberPath,
    hub: HubDep,
    caller: OperatorUser,
    wanted: Annotated[Withdrawal, JsonBody(Withdrawal)],
) -> ReleaseInfo:
    """Forbid a release for ever."""
    row = hub.publisher.withdraw(model, number, wanted.reason, actor=caller.actor)
    return ReleaseInfo.model_validate(row)


@router.delete("/{number}", responses=errors(404, 409))
def delete(model: KeyPath, number: NumberPath, hub: HubDep, caller: OperatorUser) -> ReleaseInfo:
    """Delete a release that no channel, pin or rollout names; its number is not used again."""
    return ReleaseInfo.model_validate(hub.publisher.delete_release(model, number, actor=caller.actor))


@router.get("/{number}/signing", responses=errors(404, 409))
def signing(model: KeyPath, number: NumberPath, hub: HubDep, caller: OperatorUser) -> SigningPayload:
    """Show the bytes that the holder of the release key has to sign (Ed25519 over the decoded `payload`)."""
    wanted = hub.publisher.signing(model, number)
    payload = base64.b64encode(wanted.payload).decode()
    return SigningPayload(payload=payload, version=wanted.version, key_id=wanted.key_id)


@router.post("/{number}/signature", responses=errors(404, 409))
def sign(
    model: KeyPath,
    number: NumberPath,
    hub: HubDep,
    caller: OperatorUser,
    wanted: Annotated[OutsideSignature, JsonBody(OutsideSignature)],
) -> ReleaseInfo:
    """Publish with a signature made elsewhere."""
    row = hub.publisher.accept_signature(
        model,
        number,
        key_id=wanted.key_id,
        signature=wanted.signature,
        version=wanted.version,
        actor=caller.actor,
    )
    return ReleaseInfo.model_validate(row)

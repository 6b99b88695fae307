"""`POST /api/v1/devices/{id}/commands`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from msgspec import Struct, field
from starlette.concurrency import run_in_threadpool

from cloud_hub.ingest.commands import send_command
from cloud_hub.routes.deps import HubDep, OperatorUser, decode

router = APIRouter(prefix="/api/v1/devices", tags=["devices (operators)"])


class NewCommand(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body: what the device shall do."""

    kind: str
    args: dict[str, Any] = field(default_factory=dict)


@router.post("/{device_id}/commands", status_code=202)
async def command(device_id: str, request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Queue a command; its answer shows among the device's events."""
    wanted = decode(await request.body(), NewCommand)
    sent = await run_in_threadpool(send_command, hub, device_id, wanted.kind, wanted.args, actor=caller.actor)
    return {"id": sent, "device": device_id, "kind": wanted.kind}

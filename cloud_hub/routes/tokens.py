"""Tokens: claim tokens for devices, tokens for operators, applications and mirrors."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from msgspec import Struct, field
from sqlmodel import col, select
from starlette.concurrency import run_in_threadpool

from cloud_hub.bootstrap import claim_pin
from cloud_hub.context import Hub
from cloud_hub.errors import ForbiddenError
from cloud_hub.identity import tokens
from cloud_hub.routes.deps import Admin, Caller, HubDep, OperatorUser, decode, page
from cloud_hub.store.tables import Token

router = APIRouter(prefix="/api/v1/tokens", tags=["tokens"])


class NewToken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`kind` claim (with `channel`, `labels`), operator (`role`), application (`scope`, `rate_per_s`), mirror."""

    kind: str
    note: str = ""
    role: str = ""
    scope: str = ""
    rate_per_s: float = 0.0
    channel: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    expires_in_s: float | None = None


@router.get("")
def list_tokens(hub: HubDep, caller: Admin) -> dict[str, Any]:
    """All tokens, without their secrets."""
    with hub.reading() as session:
        rows = session.exec(select(Token).order_by(col(Token.created_at))).all()
    return page([shown(row) for row in rows])


@router.post("", status_code=201)
async def create(request: Request, hub: HubDep, caller: OperatorUser) -> dict[str, Any]:
    """Make a token; `token` in the answer is shown this once. Operator tokens need the role admin."""
    wanted = decode(await request.body(), NewToken)
    if wanted.kind in ("operator", "mirror") and caller.role != "admin":
        raise ForbiddenError(f"{wanted.kind} tokens are made by an admin", subject=caller.actor)
    return await run_in_threadpool(_create, hub, wanted, caller)


def _create(hub: Hub, wanted: NewToken, caller: Caller) -> dict[str, Any]:
    pin = claim_pin(hub) if wanted.kind == "claim" else ""
    with hub.session() as session:
        row, text = tokens.create_token(
            session,
            wanted.kind,
            now=hub.clock(),
            note=wanted.note,
            role=wanted.role,
            scope=wanted.scope,
            rate_per_s=wanted.rate_per_s,
            channel=wanted.channel,
            labels=wanted.labels,
            expires_in_s=wanted.expires_in_s,
            pin=pin,
        )
        hub.audit(session, caller.actor, "token.create", row.id, {"kind": row.kind, "note": row.note})
    answer = {**shown(row), "token": text}
    if wanted.kind == "claim":  # what its receiver needs, and what may keep a device from coming online
        addresses = hub.config.addresses
        answer |= {"hub": addresses.http_advertise, "warnings": list(addresses.remarks)}
    return answer


@router.delete("/{token_id}")
def revoke(token_id: str, hub: HubDep, caller: Admin) -> dict[str, Any]:
    """End a token at once."""
    with hub.session() as session:
        row = tokens.revoke_token(session, token_id, now=hub.clock())
        hub.audit(session, caller.actor, "token.revoke", token_id)
        return shown(row)


def shown(row: Token) -> dict[str, Any]:
    """A token as the API shows it."""
    return row.model_dump(exclude={"secret_hash", "key_fingerprint"})

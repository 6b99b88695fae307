"""Tokens: claim tokens for devices, tokens for operators, applications and mirrors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from cloud_hub.api.access import Admin, HubDep, OperatorUser
from cloud_hub.api.bodies import JsonBody
from cloud_hub.api.openapi import errors
from cloud_hub.api.params import KeyPath
from cloud_hub.bootstrap import claim_pin
from cloud_hub.errors import ForbiddenError
from cloud_hub.identity import tokens
from fleet.api.tokens import CreatedToken, NewToken, TokenInfo, TokenPage

router = APIRouter(prefix="/api/v1/tokens", tags=["tokens"])


@router.get("")
def list_tokens(hub: HubDep, caller: Admin) -> TokenPage:
    """All tokens, without their secrets."""
    with hub.reading() as session:
        return TokenPage(items=[TokenInfo.model_validate(row) for row in tokens.all_tokens(session)])


@router.post("", status_code=201)
def create(hub: HubDep, caller: OperatorUser, wanted: Annotated[NewToken, JsonBody(NewToken)]) -> CreatedToken:
    """Make a token; `token` in the answer is shown this once. Operator tokens need the role admin."""
    if wanted.kind in ("operator", "mirror") and caller.role != "admin":
        raise ForbiddenError(f"{wanted.kind} tokens are made by an admin", subject=caller.actor)
    pin = claim_pin(hub) if wanted.kind == "claim" else ""
    with hub.session() as session:
        row, text = tokens.create_token(session, now=hub.clock(), pin=pin, **wanted.model_dump())
        hub.audit(session, caller.actor, "token.create", row.id, {"kind": row.kind, "note": row.note})
    known = TokenInfo.model_validate(row).model_dump()
    if wanted.kind != "claim":
        return CreatedToken(**known, token=text)
    addresses = hub.config.addresses  # what its receiver needs, and what may keep a device from coming online
    return CreatedToken(**known, token=text, hub=addresses.http_advertise, warnings=list(addresses.remarks))


@router.delete("/{token_id}", responses=errors(404))
def revoke(token_id: KeyPath, hub: HubDep, caller: Admin) -> TokenInfo:
    """End a token at once."""
    with hub.session() as session:
        row = tokens.revoke_token(session, token_id, now=hub.clock())
        hub.audit(session, caller.actor, "token.revoke", token_id)
        return TokenInfo.model_validate(row)

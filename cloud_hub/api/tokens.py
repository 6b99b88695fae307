"""Tokens: claim tokens for devices, tokens for operators, applications and mirrors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from cloud_hub.api.access import Admin, HubDep, OperatorUser
from cloud_hub.api.bodies import JsonBody
from cloud_hub.api.openapi import errors
from cloud_hub.api.params import KeyPath
from cloud_hub.identity import token_orders
from fleet.api.tokens import CreatedToken, NewToken, TokenInfo, TokenPage

router = APIRouter(prefix="/api/v1/tokens", tags=["tokens"])


@router.get("")
def list_tokens(hub: HubDep, caller: Admin) -> TokenPage:
    """All tokens, without their secrets."""
    return TokenPage(items=token_orders.list_tokens(hub))


@router.post("", status_code=201, responses=errors(404))
def create(hub: HubDep, caller: OperatorUser, wanted: Annotated[NewToken, JsonBody(NewToken)]) -> CreatedToken:
    """Make a token; `token` in the answer is shown this once. Operator and mirror tokens need the role admin.

    The channel of a claim token, and the model of an application's scope, must be there.
    """
    return token_orders.create(hub, wanted, caller)


@router.delete("/{token_id}", responses=errors(404))
def revoke(token_id: KeyPath, hub: HubDep, caller: Admin, forget: bool = False) -> TokenInfo:
    """End a token at once; with `forget` it is not listed any more either. The audit log keeps both."""
    end = token_orders.delete if forget else token_orders.revoke
    return end(hub, token_id, actor=caller.actor)

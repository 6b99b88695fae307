"""Carries out what operators do with tokens: list, make, revoke, forget."""

from __future__ import annotations

from cloud_hub.acts import TokenEnded
from cloud_hub.context import Hub
from cloud_hub.errors import NotFoundError
from cloud_hub.identity import tokens
from cloud_hub.identity.callers import Caller, check_may_make_token
from cloud_hub.identity.first_contact import claim_pin
from cloud_hub.journal import write_act
from cloud_hub.store.tables import Token
from fleet.api.tokens import CreatedToken, NewToken, TokenInfo


def list_tokens(hub: Hub) -> list[TokenInfo]:
    """Every token without its secret, oldest first."""
    with hub.reading() as session:
        return [TokenInfo.model_validate(row) for row in tokens.all_tokens(session)]


def list_working(hub: Hub, most: int) -> tuple[list[TokenInfo], int]:
    """As `tokens.working_tokens` has them."""
    with hub.reading() as session:
        found, others = tokens.working_tokens(session, hub.clock(), most)
        return [TokenInfo.model_validate(row) for row in found], others


def show(hub: Hub, token_id: str) -> TokenInfo:
    """One token; NotFoundError when there is none."""
    with hub.reading() as session:
        row = session.get(Token, token_id)
        if row is None:
            raise NotFoundError(f"no token {token_id!r}", subject="token", hint="fleet token list")
        return TokenInfo.model_validate(row)


def create(hub: Hub, wanted: NewToken, caller: Caller) -> CreatedToken:
    """Make a token; its text is in this answer and nowhere else.

    Args:
        hub: the hub.
        wanted: kind, rights and end of the token.
        caller: who asks; some kinds are for an admin to make.

    Raises:
        ForbiddenError: this kind of token is made by an admin. InvalidError: fields that do not fit the kind.
        NotFoundError: the channel of a claim token, or the model of an application's scope, is not there.
    """
    check_may_make_token(caller, wanted.kind)
    pin = claim_pin(hub) if wanted.kind == "claim" else ""
    grant = tokens.Grant(**wanted.model_dump())
    with hub.session() as session:
        tokens.check_grant(grant)
        tokens.check_names(session, wanted.channel, wanted.scope)
        row, text = tokens.create_token(session, grant, now=hub.clock(), pin=pin)
        hub.audit(session, caller.actor, "token.create", row.id, {"kind": row.kind, "note": row.note})
    known = TokenInfo.model_validate(row).model_dump()
    if wanted.kind != "claim":
        return CreatedToken(**known, token=text)
    addresses = hub.config.addresses  # what its receiver needs, and what may keep a device from coming online
    return CreatedToken(**known, token=text, hub=addresses.http_advertise, warnings=list(addresses.remarks))


def revoke(hub: Hub, token_id: str, *, actor: str) -> TokenInfo:
    """End a token at once; revoking twice changes nothing.

    Args:
        hub: the hub.
        token_id: its id, the part between the dots.
        actor: as in the audit log.

    Raises:
        NotFoundError: there is none.
    """
    with hub.session() as session:
        row = tokens.revoke_token(session, token_id, now=hub.clock())
        write_act(session, TokenEnded(token=token_id))
        hub.audit(session, actor, "token.revoke", token_id)
        return TokenInfo.model_validate(row)


def delete(hub: Hub, token_id: str, *, actor: str) -> TokenInfo:
    """End a token and take it off the list; the audit log keeps that it was there.

    Args:
        hub: the hub.
        token_id: its id, the part between the dots.
        actor: as in the audit log.

    Raises:
        NotFoundError: there is none.
    """
    with hub.session() as session:
        row = tokens.delete_token(session, token_id, now=hub.clock())
        write_act(session, TokenEnded(token=token_id))
        hub.audit(session, actor, "token.delete", token_id, {"kind": row.kind, "note": row.note})
        return TokenInfo.model_validate(row)

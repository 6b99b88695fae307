"""Tokens of claims, operators, applications and mirrors. Only a hash of the secret is kept.

Text: `el1.<id>.<secret>`, and for a claim token `el1.<id>.<secret>.<pin>`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from sqlalchemy import case, or_
from sqlmodel import Session, col, func, select

from cloud_hub.errors import InvalidError, NotFoundError, UnauthenticatedError
from cloud_hub.store.tables import ChannelRow, Model, Token
from fleet.protocol.names import check_name

PREFIX = "el1"
KINDS = ("claim", "operator", "application", "mirror")
ROLES = ("viewer", "operator", "admin")
CLAIM_LIFE_S = 86_400.0


class Grant(Struct, frozen=True, kw_only=True):
    """The rights that a token gives, and for how long; which fields it needs depends on its kind (`check_grant`).

    `scope` is of an application (`infer:NAME`), `role` of an operator; a claim's devices get `channel` and `labels`.
    """

    kind: str
    note: str = ""
    role: str = ""
    scope: str = ""
    rate_per_s: float = 0.0
    channel: str = ""
    labels: Mapping[str, str] = {}
    expires_in_s: float | None = None


class NewToken(NamedTuple):
    """A stored row and the text that is shown once."""

    row: Token
    text: str


def secret_hash(secret: str) -> str:
    """SHA-256 of a secret of 256 random bits; such a secret needs no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(32)


def create_token(session: Session, grant: Grant, *, now: float, pin: str = "") -> NewToken:
    """Store a new token and return it with its text.

    Args:
        session: in which it is stored.
        grant: what it allows. A claim lives a day unless it says otherwise, and works once.
        now: Unix seconds.
        pin: of a claim alone: what its devices know the hub by at first contact.

    Raises:
        InvalidError: fields that do not fit the kind.
    """
    check_grant(grant)
    life_s = grant.expires_in_s
    if grant.kind == "claim" and life_s is None:
        life_s = CLAIM_LIFE_S
    secret = new_secret()
    row = Token(
        id=secrets.token_hex(6),
        kind=grant.kind,
        secret_hash=secret_hash(secret),
        note=grant.note,
        role=grant.role,
        scope=grant.scope,
        rate_per_s=grant.rate_per_s,
        channel=grant.channel,
        labels=dict(grant.labels),
        created_at=now,
        expires_at=None if life_s is None else now + life_s,
    )
    session.add(row)
    text = f"{PREFIX}.{row.id}.{secret}"
    return NewToken(row, f"{text}.{pin}" if grant.kind == "claim" else text)


def check_names(session: Session, channel: str, scope: str) -> None:
    """Raise NotFoundError for a channel or model that does not exist: nobody could use such a token as it was meant.

    Args:
        session: an open one.
        channel: of a claim token; empty for another kind.
        scope: of an application token, likewise.
    """
    if channel and session.get(ChannelRow, channel) is None:
        hint = f"make it: fleet channel create {channel}; or see those there are: fleet channel list"
        raise NotFoundError(f"no channel {channel!r}", subject=channel, hint=hint)
    model = scope.partition(":")[2]
    if model not in ("", "*") and session.get(Model, model) is None:
        hint = f"make it: fleet model create {model}; or see those there are: fleet model list"
        raise NotFoundError(f"no model {model!r}", subject=model, hint=hint)


def verify_token(session: Session, text: str, *, now: float) -> Token:
    """Return the token behind `el1.<id>.<secret>`.

    Args:
        session: an open one.
        text: as a caller shows it.
        now: Unix seconds.

    Raises:
        UnauthenticatedError: unknown, wrong, expired or revoked (the answer does not say which).
    """
    parts = text.split(".")
    if len(parts) != 3 or parts[0] != PREFIX:
        raise _refused()
    return check_secret(session.get(Token, parts[1]), parts[2], now=now)


def check_secret(row: Token | None, secret: str, *, now: float) -> Token:
    """Return a token's row if the secret is its own and it is in force; compares in constant time.

    Args:
        row: the token of that id; None where there is none.
        secret: as a caller shows it.
        now: Unix seconds.

    Raises:
        UnauthenticatedError: it is not.
    """
    expected = row.secret_hash if row is not None else secret_hash("")
    matches = hmac.compare_digest(expected, secret_hash(secret))
    if row is None or not matches or row.revoked_at is not None:
        raise _refused()
    if row.expires_at is not None and now >= row.expires_at:
        raise _refused()
    return row


def all_tokens(session: Session) -> Sequence[Token]:
    """Every token, oldest first."""
    return session.exec(select(Token).order_by(col(Token.created_at))).all()


def working_tokens(session: Session, now: float, most: int) -> tuple[Sequence[Token], int]:
    """List tokens without those that devices have enrolled by, of which there is one for each: those that still work
    first, the newest first; and the number left out.

    Args:
        session: an open one.
        now: Unix seconds.
        most: the length of the list.
    """
    ended = or_(col(Token.revoked_at).is_not(None), col(Token.expires_at) <= now)
    rows = select(Token).where(Token.device_id == "").order_by(case((ended, 1), else_=0), col(Token.created_at).desc())
    found = session.exec(rows.limit(most)).all()
    return found, session.exec(select(func.count()).select_from(Token)).one() - len(found)


def revoke_token(session: Session, token_id: str, *, now: float) -> Token:
    """End a token; revoking twice changes nothing.

    Args:
        session: an open one; the caller commits.
        token_id: its id, the part between the dots.
        now: Unix seconds, the token's end.

    Raises:
        NotFoundError: there is none.
    """
    row = session.get(Token, token_id, with_for_update=True)  # an enrolment with it comes before or after
    if row is None:
        raise NotFoundError(f"no token {token_id}", subject=token_id, hint="list tokens: fleet token list")
    if row.revoked_at is None:
        row.revoked_at = now
        session.add(row)
    return row


def delete_token(session: Session, token_id: str, *, now: float) -> Token:
    """End a token and forget it.

    Args:
        session: an open one; the caller commits.
        token_id: its id, the part between the dots.
        now: Unix seconds.

    Raises:
        NotFoundError: there is none.
    """
    row = revoke_token(session, token_id, now=now)
    session.delete(row)
    return row


def role_allows(role: str, needed: str) -> bool:
    """Return whether `role` includes `needed`: viewer < operator < admin."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(needed)


def scope_allows(scope: str, model: str) -> bool:
    """Return whether `infer:NAME` or `infer:*` covers `model`."""
    return scope in ("infer:*", f"infer:{model}")


def check_grant(grant: Grant) -> None:
    """Raise InvalidError, or MalformedError for a name that cannot be one, unless the fields fit the kind."""
    kind, role, scope, channel = grant.kind, grant.role, grant.scope, grant.channel
    if kind not in KINDS:
        raise InvalidError(f"unknown kind of token {kind!r}", subject="kind", hint=f"one of: {', '.join(KINDS)}")
    if (kind == "operator") != bool(role) or (role and role not in ROLES):
        raise InvalidError("an operator token needs a role", subject="role", hint=f"one of: {', '.join(ROLES)}")
    if (kind == "application") != bool(scope):
        raise InvalidError("an application token needs a scope", subject="scope", hint="infer:NAME or infer:*")
    if scope:
        _, _, model = scope.partition(":")
        if not scope.startswith("infer:"):
            raise InvalidError(f"unknown scope {scope!r}", subject="scope", hint="infer:NAME or infer:*")
        if model != "*":
            check_name(model, "model")
    if (kind == "claim") != bool(channel):
        raise InvalidError("a claim token needs a channel", subject="channel", hint="for example: stable")
    if channel:
        check_name(channel, "channel")
    if grant.rate_per_s < 0 or (grant.expires_in_s is not None and grant.expires_in_s <= 0):
        raise InvalidError("rate and life of a token are positive", subject="token")


def _refused() -> UnauthenticatedError:
    return UnauthenticatedError(
        "the token is not valid", subject="token", hint="ask an admin for a new one: fleet token create"
    )

"""Keeps verified tokens in memory, so that a request for an answer costs no look at the database."""

from __future__ import annotations

import hashlib

from cloud_hub.context import Hub
from cloud_hub.errors import UnauthenticatedError
from cloud_hub.identity.callers import Authenticated, Caller, authenticated, check_may_ask, check_may_infer
from cloud_hub.identity.rates import RateLimiter
from cloud_hub.store.fresh import Cache, Freshness

TOKEN_LIMIT = 4096  # characters; ours have less than 200


class Admission:
    """Callers by the hash of their token, and their rates. For one event loop."""

    def __init__(self, hub: Hub, freshness: Freshness) -> None:
        self._hub = hub
        self._callers: Cache[bytes, Authenticated] = Cache(freshness, most=hub.config.inference.callers)
        self.rates = RateLimiter()

    def find(self, authorization: str) -> Caller | None:
        """Return the caller that sends this header, if it is known without a look at the database.

        Raises UnauthenticatedError where there is no token, or it is known that it is not valid.
        """
        text = token_in(authorization)
        found = self._callers.find(_digest(text))
        if found is not None and found.ends_at <= self._hub.clock():
            raise UnauthenticatedError("the token has expired", subject="token", hint="get a new one")
        return found.caller if found is not None else None

    async def get(self, authorization: str) -> Caller:
        """Return the caller that sends this header; raises UnauthenticatedError."""
        found = self.find(authorization)
        if found is not None:
            return found
        text = token_in(authorization)
        return (await self._callers.get(_digest(text), lambda: authenticated(self._hub, text))).caller

    def take(self, caller: Caller, model: str) -> None:
        """Count a request of `caller` to `model`; raises ForbiddenError, or RateError over the token's rate."""
        check_may_infer(caller, model)
        self._count(caller)

    def enter(self, caller: Caller) -> None:
        """Count a request of `caller` about no model in particular; raises as `take`."""
        check_may_ask(caller)
        self._count(caller)

    def _count(self, caller: Caller) -> None:
        if caller.rate_per_s > 0:
            self.rates.take(caller.actor, caller.rate_per_s, self._hub.clock())


def token_in(authorization: str) -> str:
    """The bearer token of an Authorization header; raises UnauthenticatedError."""
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise UnauthenticatedError("no token was sent", subject="authorization", hint="send `Authorization: Bearer …`")
    if len(text) > TOKEN_LIMIT:
        raise UnauthenticatedError("the token is not valid", subject="token", hint="copy it whole")
    return text.strip()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

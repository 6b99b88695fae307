"""Tokens: claim tokens for devices, tokens for operators, applications and mirrors."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fleet.api.base import Page, RequestModel, ResponseModel
from fleet.api.types import LONGEST_S, Key, Text

MAX_LABELS = 64
HIGHEST_RATE = 1e6  # requests per second


class NewToken(RequestModel):
    """`kind` claim (with `channel`, `labels`), operator (`role`), application (`scope`, `rate_per_s`), mirror."""

    kind: Key
    note: Text = ""
    role: Key = ""
    scope: Key = ""
    rate_per_s: Annotated[float, Field(le=HIGHEST_RATE, ge=-HIGHEST_RATE, allow_inf_nan=False)] = 0.0
    channel: Key = ""
    labels: Annotated[dict[Key, Key], Field(max_length=MAX_LABELS)] = {}
    expires_in_s: Annotated[float, Field(le=LONGEST_S, ge=-LONGEST_S, allow_inf_nan=False)] | None = None


class TokenInfo(ResponseModel):
    """A token without its secret. Times are Unix seconds; `device_id` is the device that a claim token enrolled."""

    id: str
    kind: str
    note: str = ""
    role: str = ""
    scope: str = ""
    rate_per_s: float = 0.0
    channel: str = ""
    labels: dict[str, str] = {}
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    device_id: str = ""


class CreatedToken(TokenInfo):
    """A new token with its text, which is shown this once. With a claim token come the address that devices use, and
    what may keep them from coming online."""

    token: str
    hub: str = ""
    warnings: list[str] = []


class TokenPage(Page[TokenInfo]):
    """All tokens, oldest first."""

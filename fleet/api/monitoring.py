"""The hub's health."""

from __future__ import annotations

from typing import Literal

from fleet.api.base import ResponseModel


class PartHealth(ResponseModel):
    """The health of one part; `reason` says why it is not `ok`. `unknown`: the part's judge does not answer."""

    state: Literal["ok", "starting", "failed", "unknown"]
    reason: str = ""


class Health(ResponseModel):
    """Every part by its name: `database`, `objects`, `broker`, `ingest`, `clock`; `status` is one word for them."""

    status: Literal["ok", "starting", "failing"]
    parts: dict[str, PartHealth] = {}

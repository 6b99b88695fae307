"""A request on its way through the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from fleet.protocol import oip
from fleet.protocol.channel import ModelEntry


class PendingRequest(NamedTuple):
    """A request on its way. Times are the engine's clock, in seconds; `until` is the caller's deadline, `gone` says
    whether it waits no more."""

    model: str
    request: oip.InferRequest
    entry: ModelEntry
    started: float
    until: float | None
    drawn: bool
    gone: Callable[[], bool]
    early: asyncio.Task[tuple[oip.InferResponse | None, str | None]] | None = None  # a call that began before the run

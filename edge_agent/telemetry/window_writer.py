"""Closes windows when they are due, and writes them and the samples to the disk, in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import msgspec

from edge_agent.errors import AgentError
from edge_agent.telemetry.budget import Budget
from edge_agent.telemetry.open_windows import OpenWindows
from edge_agent.telemetry.report_log import LARGEST
from edge_agent.telemetry.sampler import Drafted, Sampler
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.windows import Builder
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.errors import ProtocolError
from fleet.protocol.telemetry import Window

log = logging.getLogger(__name__)

TICK_S = 1.0


class WindowWriter:
    """Run `run` as a task. What it cannot write is lost and logged: a full disk stops no request."""

    def __init__(
        self,
        windows: OpenWindows,
        sampler: Sampler,
        spool: Spool,
        budget: Budget,
        *,
        clock: Callable[[], float] = time.time,
        settle: Callable[[], None] = lambda: None,
        written: Callable[[bool, bool], None] = lambda windows, samples: None,
    ) -> None:
        """Write to `spool`, and what `sampler` has drawn to its store.

        Args:
            windows: the open ones.
            sampler: has the drafts of samples.
            spool: takes closed windows.
            budget: the day's bytes, saved along with the rest.
            clock: seconds since 1970.
            settle: brings in the requests that have ended and are not counted yet.
            written: hears whether windows, and whether samples, have come to the disk; called when either has.
        """
        self._windows, self._sampler, self._spool, self._budget = windows, sampler, spool, budget
        self._clock, self._settle, self._written = clock, settle, written

    async def run(self) -> None:
        """Close windows and store samples until cancelled; then store what is open."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._windows.full.wait()
                self._windows.full.clear()
                await self.step()
        finally:
            self._settle()
            now = self._clock()
            self._store(self._windows.take_all(), self._sampler.take(now), now)

    async def flush(self) -> None:
        """Close every window now."""
        self._settle()
        await self._write(self._windows.take_all())

    async def step(self) -> None:
        """Close the windows that are due, and write what is closed and drawn."""
        self._settle()
        await self._write(self._windows.due())

    async def _write(self, builders: list[Builder]) -> None:
        now = self._clock()
        stored, kept = await asyncio.to_thread(self._store, builders, self._sampler.take(now), now)
        if stored or kept:
            self._written(stored > 0, kept > 0)

    def _store(self, builders: list[Builder], drafts: list[Drafted], now: float) -> tuple[int, int]:
        stored = kept = 0
        try:
            for builder in builders:
                window = builder.close(now)
                self._spool.append("window", encoded(window), window.ended_at)
                stored += 1
            kept = self._sampler.store(drafts, now)
            self._budget.save()
        except (AgentError, ProtocolError) as error:
            log.error("windows or samples are lost: %s", error)
        return stored, kept


def encoded(window: Window) -> bytes:
    """Encode a window, without its sketch, quantiles and inputs, in this order, as far as a message needs it."""
    body = encode_msgpack(window)
    less = ("sketch", {"sketch": None, "outlying": -1}), ("quantiles", {"values": ()}), ("inputs", {"inputs": ()})
    for what, changes in less:
        if len(body) > LARGEST:
            log.warning("a window of model %s has %d bytes; its %s is left out", window.model, len(body), what)
            window = msgspec.structs.replace(window, **changes)
            body = encode_msgpack(window)
    return body

"""Measures a release once after it was committed, when the channel or a running rollout asks for it.

What was measured is remembered in the agent's database after its figures are in the spool, so that a
crash in between measures once more and never not at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from edge_agent.errors import SpoolError
from edge_agent.telemetry.database import Database, set_fact
from edge_agent.update.rules.model_state import ModelState
from fleet.protocol.channel import Channel, ModelEntry

log = logging.getLogger(__name__)

FACT = "measured:"


def wanted(state: ModelState, entry: ModelEntry) -> str:
    """Return the key of the measurement that is due, which names it for ever; empty when none is.

    A rollout asks for its own release only; a new attempt of it asks anew.
    """
    if state.state != "committed" or state.active is None:
        return ""
    held, rollout = state.active, entry.rollout
    attempt = ""
    if rollout is not None and rollout.measure and rollout.release == held.release:
        attempt = f"{rollout.id}:{rollout.attempt}"
    if not attempt and not entry.bench.on_commit:
        return ""
    return f"{held.release}:{held.variant}:{held.manifest}:{attempt}"


class Measurer:
    """One task; `wake` it from the event loop whenever a state or the channel may have changed."""

    def __init__(
        self,
        database: Database,
        states: Callable[[], Mapping[str, ModelState]],
        channel: Callable[[], Channel | None],
        measure: Callable[[str, int], Awaitable[None]],
    ) -> None:
        self._database, self._states, self._channel, self._measure = database, states, channel, measure
        self._wake = asyncio.Event()
        self._done: dict[str, str] = {}

    def wake(self) -> None:
        """Look whether something is to be measured."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.step()
            await self._wake.wait()
            self._wake.clear()

    async def step(self) -> None:
        """Measure what is asked for and was not measured yet, one model after the other."""
        channel = self._channel()
        for model, entry in (channel.models if channel is not None else {}).items():
            key = wanted(self._states().get(model, ModelState()), entry)
            if key and key != self._remembered(model):
                log.info("measuring model %s", model)
                await self._measure(model, entry.bench.rounds)
                self._remember(model, key)

    def _remembered(self, model: str) -> str:
        return self._done.get(model) or self._database.fact(FACT + model)

    def _remember(self, model: str, key: str) -> None:
        self._done[model] = key
        try:
            with self._database.transaction() as connection:
                set_fact(connection, FACT + model, key)
        except SpoolError as error:  # measured once more after the next start, which harms nobody
            log.warning("model %s: that it was measured is not kept: %s", model, error)

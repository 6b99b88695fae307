"""Puts the releases that the machines call active into service, and keeps what can serve serving.

A file that is damaged is fetched again. A release that merely cannot be loaded *now* (no memory, no runtime, no
descriptor, a disk that fails) is not given up: what it replaced serves meanwhile, and it is tried again. One whose load
ends the agent is left alone after a few times.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from msgspec import Struct

from edge_agent.errors import ActivationError, AgentError, CorruptBlobError, UnreadableError
from edge_agent.ports import Activator, InstalledRelease
from edge_agent.update.disk.crash_log import CrashLog
from edge_agent.update.disk.store import Store
from edge_agent.update.rules import machine
from edge_agent.update.rules.model_state import HeldRelease, ModelState
from edge_agent.update.state_reporter import StateReporter
from fleet.protocol.channel import RolloutRef

log = logging.getLogger(__name__)

FIRST_S, MOST_S = 5.0, 300.0  # before a release that could not be loaded is tried again, doubled each time
SETTLED = ("idle", "committed", "rolled_back")


class _Waiting(Struct):
    """A release that could not be loaded: when it is tried again, and how long it waits after that."""

    at: float
    pause_s: float


class Activation:
    """Between the machines and the activator; `now` is monotonic, seconds."""

    def __init__(
        self,
        store: Store,
        activator: Activator,
        states: StateReporter,
        crash_log: CrashLog,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self._activator, self._states, self._now = store, activator, states, now
        self._crash_log = crash_log
        self._serving: dict[str, tuple[HeldRelease, float]] = {}
        self._waiting: dict[str, _Waiting] = {}

    def served_s(self, model: str) -> float:
        """Return the seconds for which this process has served the present release of `model`."""
        return self._now() - self._serving[model][1] if model in self._serving else 0.0

    async def activate(
        self, model: str, held: HeldRelease, previous: HeldRelease | None, pairing: RolloutRef | None
    ) -> None:
        """Load and swap; `previous` is loaded beside it for paired audits while there is a `pairing`.

        The release is read and hashed in a thread, and what is loaded is what was hashed.

        Args:
            model: its name.
            held: the release to serve, verified.
            previous: loaded beside it for paired audits while there is a `pairing`.
            pairing: the rollout that compares the two; None for none.

        Raises:
            CorruptBlobError, UnreadableError, ActivationError: what served before still serves.
        """
        self._crash_log.check(model, held)
        release = await asyncio.to_thread(self.store.open, model, held, previous)
        shadow: InstalledRelease | None = None
        if previous is not None and pairing is not None:
            try:
                self._crash_log.check(model, previous)
                shadow = await asyncio.to_thread(self.store.open, model, previous)
            except (CorruptBlobError, UnreadableError, ActivationError) as error:
                log.warning("model %s: the previous release cannot be paired: %s", model, error)
        apart = shadow is not None and self._crash_log.suspected(model)  # to tell which of the two ended the agent
        with self._crash_log.loading(model, held):
            await self._activator.activate(release, None if apart else shadow, pairing)
        if apart and previous is not None:
            with self._crash_log.loading(model, previous):
                await self._activator.activate(release, shadow, pairing)
        if model not in self._serving or self._serving[model][0] != held:
            self._serving[model] = (held, self._now())

    async def serve(self, model: str) -> None:
        """Put the active release into service, or what is left when it is damaged or cannot be loaded now."""
        while True:
            state = self._states.file.model(model)
            if state.active is None:
                self._waiting.pop(model, None)
                self._serving.pop(model, None)
                await self._activator.deactivate(model)
                return
            try:
                await self.activate(model, state.active, state.previous, state.pairing)
            except CorruptBlobError as error:
                log.error("model %s: %s", model, error)
                self._states.settle(model, machine.damaged(state, str(error)))
            except (ActivationError, UnreadableError) as error:
                log.error("model %s: %s", model, error)
                if state.state == "probation" and state.previous is not None:
                    self._states.settle(model, machine.withdrawn(state, error.reason, str(error), error.hint))
                    continue
                await self._stand_in(model, state, error)
                return
            else:
                if self._waiting.pop(model, None) is not None:
                    self._states.settle(model, machine.noted(self._states.file.model(model), "", ""))
                return

    async def retry(self, model: str) -> None:
        """Try again what could not be loaded, when it is time."""
        waiting = self._waiting.get(model)
        if waiting is not None and self._now() >= waiting.at and self._states.file.model(model).state in SETTLED:
            await self.serve(model)

    def waits(self, model: str) -> bool:
        """Return whether another release stands in for the active one."""
        return model in self._waiting

    async def _stand_in(self, model: str, state: ModelState, error: AgentError) -> None:
        """Leave what serves, or serve the previous release, until the active one can be loaded."""
        before = self._waiting.get(model)
        pause_s = min(before.pause_s * 2, MOST_S) if before is not None else FIRST_S
        self._waiting[model] = _Waiting(self._now() + pause_s, pause_s)
        hint = error.hint if error.reason == "crash-loop" else "it is tried again"
        detail = f"{error}; what can be loaded serves meanwhile"
        self._states.settle(model, machine.noted(state, error.reason, detail, hint))
        if before is None and model not in self._serving and state.previous is not None:
            try:
                await self.activate(model, state.previous, None, None)
            except AgentError as worse:
                log.error("model %s: nor can the previous release serve: %s", model, worse)

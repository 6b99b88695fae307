"""The updater in the serving process: looks when it is told or time comes, and runs every model's machine.

What serves goes on serving whatever happens here. Every new state is on the disk before its step.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

from msgspec.structs import replace

from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError, TrialError, UpdateError, said
from edge_agent.host.sharing import share_store
from edge_agent.host.timing import SYSTEM, Timing
from edge_agent.ports import Activator
from edge_agent.update.activation import Activation
from edge_agent.update.disk.crash_log import CrashLog, loader
from edge_agent.update.disk.store import Store
from edge_agent.update.looks import Looks
from edge_agent.update.messages import Beside, LookResult, Offer, Refusal
from edge_agent.update.offers import CUT_SHORT, MIN_RELOOK_S, OfferApplier
from edge_agent.update.rules import install_window, machine
from edge_agent.update.rules.model_state import ModelState
from edge_agent.update.rules.notice_backoff import NoticeBackoff
from edge_agent.update.rules.probation import judged
from edge_agent.update.shadows import Shadows
from edge_agent.update.state_reporter import StateReporter
from edge_agent.update.worker.pool import WorkerPool
from fleet.protocol.channel import Channel
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import ModelReport

log = logging.getLogger(__name__)


class Updater:
    """One per agent. Call `start` once, then run `run` as a task; `wake` from the event loop."""

    def __init__(
        self,
        config: AgentConfig,
        states: StateReporter,
        activator: Activator,
        looks: Looks,
        *,
        budget: install_window.DayBudget = install_window.UNLIMITED,
        shadows: Shadows | None = None,
        timing: Timing = SYSTEM,
    ) -> None:
        """Pull into `config.dir`.

        Args:
            config: of the agent; read once.
            states: where each model stands, and who hears of it.
            activator: what serves releases.
            looks: starts the processes that look, for this device.
            budget: the day's bytes.
            shadows: what runs releases beside those that serve; None where nothing does.
            timing: clocks, pauses and jitter.
        """
        self._config, self._activator, self._looks, self._shadows = config, activator, looks, shadows
        self._timing = timing
        self.store = Store(config.dir, reserve=config.disk_reserve_bytes, to_write=False)
        self.file, self._states = states.file, states
        self._crash_log = CrashLog(config.dir, loader(looks.device.runtimes))
        self._activation = Activation(self.store, activator, states, self._crash_log, now=timing.now)
        share_store(config.dir)
        self._offers = OfferApplier(
            config, states, self._activation, activator, looks.children, budget=budget, clock=timing.clock
        )
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._backoff, self._patience_s, self._noticed = NoticeBackoff(timing.now), 0.0, False
        self.looking = asyncio.Lock()  # held for the length of a look
        self.by_hand = False  # somebody asked for this look: neither the window nor the budget holds it
        self._pause = config.retry_first_s

    @property
    def current_channel(self) -> Channel | None:
        """The followed channel, also after a start without network."""
        return self.file.state.looked.channel

    @property
    def loading(self) -> list[str]:
        """The models whose release is still being loaded since the start."""
        return sorted(self._loading)

    def wake(self, reason: str = "") -> None:
        """Look now. A fetch under way ends where it is and is resumed, so that a halt need not wait for it."""
        log.debug("look: %s", reason)
        self._wake.set()

    def notice(self, reason: str) -> None:
        """As `wake`, for what others say: many notices in a row are followed only after a while."""
        self._noticed = True
        self.wake(reason)

    async def start(self, *, to_serve: bool = True) -> None:
        """Serve what is installed, before any network, and whatever the disk takes. A damaged release gives way
        to the previous one. A load that hangs or takes long goes on beside the rest after `start_wait_s`.

        `to_serve` is false in a process that ends after one look: no start that a probation counts.
        """
        self._states.tell_look()
        # A release that may have ended the agent loads last and alone, so that it takes no other model's load with it.
        for model in sorted(self.file.state.models, key=self._crash_log.suspected):
            self._resume(model, machine.resumed(self.file.model(model), to_serve=to_serve))
            alone = [*self._loading.values()] if self._crash_log.suspected(model) else []
            first = asyncio.ensure_future(self._serve_first(model, alone))
            await asyncio.wait({first}, timeout=self._config.start_wait_s)
            if first.done():
                first.result()
                continue
            log.warning("model %s is still being loaded; the agent starts without it", model)
            self._loading[model] = first
            first.add_done_callback(functools.partial(self._came_late, model))

    async def _serve_first(self, model: str, after: list[asyncio.Task[None]]) -> None:
        async with self._offers.changes[model]:
            if after:
                await asyncio.wait(after)
            await self._activation.serve(model)
        self._states.tell(model)

    def _came_late(self, model: str, first: asyncio.Task[None]) -> None:
        del self._loading[model]
        if not first.cancelled() and (error := first.exception()) is not None:
            log.error("model %s is not served", model, exc_info=error)

    def _resume(self, model: str, state: ModelState) -> None:
        try:
            self._states.enter(model, state)
        except OSError as error:
            # A start that cannot be counted would let a release on probation crash the agent for ever.
            if state.state == "probation" and state.previous is not None:
                word, hint = said(error)
                state = machine.withdrawn(state, word, f"its start cannot be recorded: {error}", hint)
            self._states.settle(model, state)

    async def run(self) -> None:
        """Look and judge until cancelled; after a failure wait, twice as long each time, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_looking())
            group.create_task(self._keep_judging(group))

    def status(self) -> dict[str, Any]:
        """Make the part of the status document about updates."""
        return {
            **self._states.looked().shown(self._looks.device.channel),
            "sandbox": self.file.state.sandbox,
            "models": {name: self.report(name) for name in self.file.state.models},
        }

    def report(self, model: str) -> ModelReport:
        """Make the report of where one model stands."""
        return self._states.report(model)

    async def _keep_looking(self) -> None:
        while True:
            try:
                again = await self.look()
                self._pause = self._config.retry_first_s
                jitter = 1 + self._config.poll_jitter * (2 * self._timing.rng() - 1)
                delay = 0.0 if again else self._until_next_look(self._config.poll_s * jitter)
            except (AgentError, ProtocolError, OSError) as error:
                log.warning("look: %s", error)
                self.note_problem(error)
                delay = self._pause * (0.5 + self._timing.rng())
                self._pause = min(self._pause * 2, self._config.retry_max_s)
            await self._sleep_or_wake(delay)

    async def _sleep_or_wake(self, delay: float) -> None:
        """Until the next look; a notice brings it forward, one of many only after a while."""
        if delay:
            pending = {asyncio.ensure_future(self._timing.sleep(delay)), asyncio.ensure_future(self._wake.wait())}
            try:
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in pending:
                    task.cancel()
        if self._noticed:
            self._noticed = False
            self._backoff.noticed()
        self._patience_s = self._backoff.patience_s
        if self._patience_s:
            await self._timing.sleep(self._patience_s)

    async def _keep_judging(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._timing.sleep(self._config.health_tick_s)
            self.file.save()
            for model in list(self.file.state.models):
                if not self._offers.changes[model].locked():  # a model that loads has its turn after it
                    group.create_task(self._tend(model))  # and holds up no other

    async def _tend(self, model: str) -> None:
        try:
            async with self._offers.changes[model]:
                await self.judge(model)
                await self._activation.retry(model)
        except (AgentError, OSError) as error:
            log.error("model %s is not judged: %s", model, error)

    async def judge(self, model: str) -> None:
        """End a probation that is decided, and judge what was committed untried; a full disk holds no rollback up."""
        state = self.file.model(model)
        if state.state != "probation" and (not state.untried or self._activation.waits(model)):
            return
        new = judged(state, self._activator.health(model), self._activation.served_s(model))
        if new is None:
            return
        self._states.settle(model, new)
        if new.state == "rolled_back":
            await self._activation.serve(model)
        self.wake("probation ended")  # a committed default may enter a rollout

    async def look(self) -> bool:
        """Look when nobody else does; as `look_now`."""
        async with self.looking:
            return await self.look_now()

    async def look_now(self) -> bool:
        """One look and what follows from it, for who holds `looking`; true when another one should follow at once.

        Raises:
            AgentError: the look or a step failed for a reason that may pass.
        """
        await self._offers.clear_up()
        self._wake.clear()  # notices from here on end a fetch under way
        child, asked = await self._looks.children.start(), self._looks.request(self.file.state)
        pool = WorkerPool(self._looks.children, child, asked)
        try:
            messages = await child.look(asked)
            offers = [message for message in messages if isinstance(message, Offer)]
            beside = [message for message in messages if isinstance(message, Beside)]
            if self._shadows is not None:
                await self._shadows.follow(beside)
            for message in messages:
                if isinstance(message, LookResult):
                    if message.looked.channel != self.current_channel:
                        self._backoff.worthwhile()
                    self.file.keep_looked(message.looked)
                    self._states.tell_look()
                    if not message.looked.problem:
                        self._collect(offers, beside)
                elif isinstance(message, Refusal):
                    self._offers.refuse(message)
            return await self._follow(pool, offers, beside)
        finally:
            await pool.close()

    async def _follow(self, pool: WorkerPool, offers: list[Offer], beside: list[Beside]) -> bool:
        stop = asyncio.Event()
        ending = asyncio.ensure_future(self._end_fetches(stop))
        try:
            again = await self._offers.follow(pool, offers, stop, by_hand=self.by_hand)
            for wanted in beside:
                again = again or await self._prepare(pool, wanted)
            return again
        finally:
            ending.cancel()

    async def _prepare(self, pool: WorkerPool, wanted: Beside) -> bool:
        """Make a release ready that is to run beside the one that serves; true when a notice has ended a step. Whatever
        becomes of it, no model's state knows of it, and the look has not failed."""
        if self._shadows is None or wanted.held is None or not self._shadows.wants(wanted):
            return False
        try:
            await self._offers.prepare(pool, wanted.model, wanted.held)
        except TrialError as error:
            hear = self._shadows.refused if error.reason in CUT_SHORT else self._shadows.failed
            hear(wanted, error.reason, str(error))
        except (UpdateError, OSError) as error:
            self._shadows.refused(wanted, said(error)[0], str(error))
            return said(error)[0] == "overtaken"
        else:
            self._shadows.ready(wanted)
        return False

    async def _end_fetches(self, stop: asyncio.Event) -> None:
        """After a notice, or when it is time: a slow fetch must not keep a new state of the channel from being
        seen. It is resumed after the next look."""
        timer = asyncio.get_running_loop().call_later(max(self._config.poll_s, MIN_RELOOK_S), self.wake, "it is time")
        try:
            if self._patience_s:
                await self._timing.sleep(self._patience_s)
            await self._wake.wait()
            stop.set()
        finally:
            timer.cancel()

    def _until_next_look(self, pause: float) -> float:
        """Earlier when an install that waits may begin then; spread over a minute, for the hub's sake."""
        waits = (until - self._timing.clock() + 60 * self._timing.rng() for until in self._offers.held_until.values())
        return max(1.0, min((pause, *waits)))

    def note_problem(self, error: Exception) -> None:
        """Keep why a look failed, for status and reports."""
        problem, advice = said(error)
        hint = f"{error}; {advice}" if advice else str(error)
        self.file.keep_looked(replace(self.file.state.looked, problem=problem, hint=hint))
        self._states.tell_look()

    def _collect(self, offers: list[Offer], beside: list[Beside]) -> None:
        """Make room: nothing stays but what serves, the ways back, and what the channel offers, however far it came."""
        shadows = self._shadows.kept(self.current_channel) if self._shadows is not None else []
        held = [held for state in self.file.state.models.values() for held in state.in_use]
        held += [offer.target.held for offer in offers if self.file.model(offer.model).rejection(offer.target) is None]
        held += [*shadows, *(wanted.held for wanted in beside if wanted.held is not None)]
        try:
            freed = self.store.collect(held)
        except OSError as error:
            log.warning("what no release needs is not removed: %s", error)
            return
        log.info("removed %d bytes that no release needs", freed)

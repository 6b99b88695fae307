"""The updater in the serving process: looks when it is told or time comes, and runs every model's machine.

What serves goes on serving whatever happens here. Every new state is on the disk before its step.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from edge_agent.config import AgentConfig
from edge_agent.errors import ActivationError, AgentError, CorruptBlobError, TrialError, UpdateError
from edge_agent.ports import Activator, InstalledRelease, Reporter
from edge_agent.sharing import share
from edge_agent.update import holds, machine
from edge_agent.update.children import Children, LookChild
from edge_agent.update.crew import AT_ONCE, Crew, messages_until
from edge_agent.update.lines import Asked, Done, Failed, Moved, Offer, Refusal, Saw, Step
from edge_agent.update.machine import Held, ModelState, Target
from edge_agent.update.state import Looked, StateFile
from edge_agent.update.store import Store
from fleet.protocol.channel import Channel, Probation
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import ModelReport

log = logging.getLogger(__name__)

CUT_SHORT = ("hash-mismatch", "disk-full")  # a child's words that say nothing bad about the release
MIN_RELOOK_S = 60.0  # between two looks while something is fetched
Sleep = Callable[[float], Awaitable[Any]]


class Updater:
    """One per agent. Call `start` once, then run `run` as a task; `wake` from the event loop."""

    def __init__(
        self,
        config: AgentConfig,
        device_id: str,
        channel: str,
        activator: Activator,
        reporter: Reporter,
        children: Children,
        *,
        kinds: tuple[str, ...],
        runtimes: tuple[str, ...] = (),
        capabilities: tuple[str, ...] = (),
        on_look: Callable[[Looked], None] = lambda looked: None,
        count_bytes: Callable[[int], None] = lambda received: None,
        budget: holds.DayBudget = holds.UNLIMITED,
        clock: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._config, self._device_id, self._channel_name = config, device_id, channel
        self._activator, self._reporter, self._children = activator, reporter, children
        self._kinds, self._runtimes, self._capabilities = kinds, runtimes, capabilities
        self._on_look, self._count_bytes = on_look, count_bytes
        self._clock, self._rng, self._sleep = clock, rng, sleep
        self.store = Store(config.dir, reserve=config.disk_reserve_bytes)
        self.file = StateFile(config.dir)
        share(config.dir)
        self._budget = budget
        self._held_until: dict[str, float] = {}
        self._progress: dict[str, float] = {}
        self._refused: dict[str, str] = {}
        self._wake = asyncio.Event()
        self.looking = asyncio.Lock()  # held for the length of a look
        self.by_hand = False  # somebody asked for this look: neither the window nor the budget holds it
        self._changes: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by model
        self._trial = asyncio.Lock()  # one self-test at a time: each may take much memory
        self._sharing = 1
        self._pause = config.retry_first_s

    @property
    def current_channel(self) -> Channel | None:
        """The followed channel, also after a start without network."""
        return self.file.state.looked.channel

    def wake(self, reason: str = "") -> None:
        """Look now. A fetch under way ends where it is and is resumed, so that a halt need not wait for it."""
        log.debug("look: %s", reason)
        self._wake.set()

    async def start(self, *, to_serve: bool = True) -> None:
        """Serve what is installed, before any network. A damaged release gives way to the previous one.

        `to_serve` is false in a process that ends after one look: no start that a probation counts.
        """
        self._on_look(self.file.state.looked)
        for model, state in list(self.file.state.models.items()):
            self._enter(model, machine.resumed(state, to_serve=to_serve))
            await self._serve(model)
            self._reporter.model(self.report(model))  # its last report may have been lost with the process

    async def run(self) -> None:
        """Look and judge until cancelled; after a failure wait, twice as long each time, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_looking())
            group.create_task(self._keep_judging())

    def status(self) -> dict[str, Any]:
        """What `edge-agent status` shows."""
        looked = self.file.state.looked
        return {
            "channel": looked.channel.channel if looked.channel else self._channel_name,
            "channel_version": looked.channel.version if looked.channel else 0,
            "clock": looked.clock,
            "problem": looked.problem,
            "hint": looked.hint,
            "tuf": looked.tuf,
            "tuf_expires": looked.tuf_expires,
            "sandbox": self.file.state.sandbox,
            "models": {name: self.report(name) for name in self.file.state.models},
        }

    def report(self, model: str) -> ModelReport:
        """Where one model stands."""
        state, channel = self.file.model(model), self.current_channel
        rollout = state.target.rollout if state.target else state.pairing
        return ModelReport(
            model=model, state=state.state, target=state.target.held.release if state.target else None,
            active=state.active.release if state.active else None,
            active_variant=state.active.variant if state.active else "",
            previous=state.previous.release if state.previous else None,
            rollout=rollout.id if rollout else "", attempt=rollout.attempt if rollout else 0,
            channel_version=channel.version if channel else 0, progress=self._progress.get(model, 0.0),
            reason=state.reason, detail=state.detail, hint=state.hint,
        )  # fmt: skip

    async def _keep_looking(self) -> None:
        while True:
            try:
                again = await self.look()
                self._pause = self._config.retry_first_s
                jitter = 1 + self._config.poll_jitter * (2 * self._rng() - 1)
                delay = 0.0 if again else self._until_next_look(self._config.poll_s * jitter)
            except (AgentError, ProtocolError, OSError) as error:
                log.warning("look: %s", error)
                self._note_problem(error)
                delay = self._pause * (0.5 + self._rng())
                self._pause = min(self._pause * 2, self._config.retry_max_s)
            if delay:
                await self._sleep_or_wake(delay)

    async def _sleep_or_wake(self, delay: float) -> None:
        pending = {asyncio.ensure_future(self._sleep(delay)), asyncio.ensure_future(self._wake.wait())}
        try:
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in pending:
                task.cancel()

    async def _keep_judging(self) -> None:
        while True:
            await self._sleep(self._config.health_tick_s)
            for model, state in list(self.file.state.models.items()):
                if state.state == "probation":  # one that loads must not hold up the others
                    async with self._changes[model]:
                        await self.judge(model)

    async def judge(self, model: str) -> None:
        """End a probation that is decided."""
        health = self._activator.health(model)
        new = machine.judged(self.file.model(model), health, self._clock())
        if new is None:
            return
        self._enter(model, new)
        if new.state == "rolled_back":
            await self._serve(model)
        else:
            self._collect()
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
        self._wake.clear()  # notices from here on end a fetch under way
        child, asked = await self._children.start(), self._asked()
        crew = Crew(self._children, child, asked)
        try:
            messages = await child.look(asked)
            for message in messages:
                if isinstance(message, Saw):
                    self.file.put_looked(message.looked)
                    self._on_look(message.looked)
                elif isinstance(message, Refusal):
                    self._refuse(message)
            return await self._follow_all(crew, [message for message in messages if isinstance(message, Offer)])
        finally:
            await crew.close()

    async def _follow_all(self, crew: Crew, offers: list[Offer]) -> bool:
        """Every model for itself: one that hangs or fails neither holds up nor disturbs another."""
        moving = sum(offer.target.held != self.file.model(offer.model).active for offer in offers)
        self._sharing = max(1, min(moving, AT_ONCE))
        # A slow fetch must not keep a new state of the channel from being seen; it is resumed after the look.
        timer = asyncio.get_running_loop().call_later(max(self._config.poll_s, MIN_RELOOK_S), self.wake, "it is time")
        try:
            found = await asyncio.gather(*(self._follow(crew, offer) for offer in offers), return_exceptions=True)
        finally:
            timer.cancel()
        failures = [outcome for outcome in found if isinstance(outcome, BaseException)]
        for failure in failures:
            if not isinstance(failure, UpdateError):
                raise failure
            if failure.reason != "overtaken":
                log.warning("model %s: %s", failure.subject, failure)
        if any(getattr(failure, "reason", "") == "overtaken" for failure in failures):
            return True
        if failures:
            raise failures[-1]
        return False

    async def _follow(self, crew: Crew, offer: Offer) -> None:
        model, target = offer.model, offer.target
        async with self._changes[model]:
            self._refused.pop(model, None)
            self._held_until.pop(model, None)
            new = machine.wanted(self.file.model(model), target, self._probation(model))
            if new is None:
                if self.file.model(model).reason in holds.WORDS:  # nothing waits any more
                    self._enter(model, machine.noted(self.file.model(model), "", ""))
                return
            if new.state == "fetching" and (hold := self._hold()) is not None:
                self._held_until[model] = hold.until
                self._enter(model, machine.noted(self.file.model(model), hold.reason, hold.detail, hold.hint))
                return
            self._enter(model, new)
            if new.state != "fetching":  # returned to what is held, or a rollout began or ended around it
                await self._serve(model)
                return
        try:
            async with crew.lent() as child:
                await self._step(child, model, "fetch", target)
                self._enter(model, machine.verifying(self.file.model(model)))
                await self._step(child, model, "verify", target)
        except (UpdateError, OSError) as error:
            state = self.file.model(model)
            if state.state == "fetching":  # there was no child to begin with
                self._enter(model, machine.interrupted(state, "interrupted", str(error), getattr(error, "hint", "")))
            raise
        self._enter(model, machine.trying(self.file.model(model)))
        if self.file.model(model).state == "trying":
            await self._try(model, target)

    def _hold(self) -> holds.Hold | None:
        if self.by_hand:
            return None
        assert self.current_channel is not None  # an offer comes from a channel
        budget = holds.UNLIMITED if holds.has_folder(self._config.mirrors) else self._budget
        return holds.hold(self.current_channel.fetching, self._clock(), budget)

    def _until_next_look(self, pause: float) -> float:
        """Earlier when an install that waits may begin then; spread over a minute, for the hub's sake."""
        waits = (until - self._clock() + 60 * self._rng() for until in self._held_until.values())
        return max(1.0, min((pause, *waits)))

    async def _step(self, child: LookChild, model: str, step: Any, target: Target) -> None:
        limit = self.current_channel.fetching.max_bytes_per_s if self.current_channel else 0
        left = self._budget.left()  # both figures are the device's, not the model's
        wanted = Step(
            step=step, held=target.held, max_bytes_per_s=-(-limit // self._sharing),
            allowance=None if left is None else left // self._sharing,
        )  # fmt: skip
        failure: Failed | None = None
        received = 0
        async for message in messages_until(child, wanted, self._wake):
            if isinstance(message, Moved):
                self._progress[model] = message.share
                self._count_bytes(message.received - received)
                received = message.received
            elif isinstance(message, Failed):
                failure = message
            elif isinstance(message, Done):
                return
        failure = failure or Failed(reason="overtaken", detail="a newer notice came; what was fetched is kept")
        if failure.reason == "budget-spent":
            hold = holds.spent(self._budget.renews_at())
            failure = Failed(reason=hold.reason, detail=hold.detail, hint=hold.hint)
        self._enter(model, machine.interrupted(self.file.model(model), failure.reason, failure.detail, failure.hint))
        raise UpdateError(failure.detail, subject=model, reason=failure.reason, hint=failure.hint)

    async def _try(self, model: str, target: Target) -> None:
        try:
            async with self._trial:
                self.file.put_sandbox(await self._children.trial(target.held))
            async with self._changes[model]:
                baseline = self._activator.health(model)
                await self._activate(model, target.held, self.file.model(model).active, target.rollout)
                self._enter(model, machine.activated(self.file.model(model), self._clock(), baseline))
        except (TrialError, ActivationError, CorruptBlobError) as error:
            if isinstance(error, TrialError) and error.sandbox:
                self.file.put_sandbox(error.sandbox)
            state = self.file.model(model)
            if error.reason == "killed":
                state, again = machine.killed(state, str(error))
                self._enter(model, state)
                if again:
                    raise UpdateError(str(error), subject=model, reason="interrupted", hint=error.hint) from error
                return
            if error.reason in CUT_SHORT:
                self._enter(model, machine.interrupted(state, error.reason, str(error), error.hint))
                raise UpdateError(str(error), subject=model, reason=error.reason, hint=error.hint) from error
            self._enter(model, machine.rolled_back(state, error.reason, str(error), error.hint))

    async def _activate(self, model: str, held: Held, previous: Held | None, pairing: Any) -> None:
        release = await asyncio.to_thread(self.store.open, model, held)
        shadow: InstalledRelease | None = None
        if previous is not None and pairing is not None:
            try:
                shadow = await asyncio.to_thread(self.store.open, model, previous)
            except CorruptBlobError as error:
                log.warning("model %s: the previous release cannot be paired: %s", model, error)
        await self._activator.activate(release, shadow, pairing)

    async def _serve(self, model: str) -> None:
        """Put the active release into service, or what is left when it is damaged."""
        while True:
            state = self.file.model(model)
            if state.active is None:
                await self._activator.deactivate(model)
                return
            try:
                await self._activate(model, state.active, state.previous, state.pairing)
                return
            except (CorruptBlobError, ActivationError) as error:
                log.error("model %s: %s", model, error)
                self._enter(model, machine.damaged(state, str(error)))

    def _enter(self, model: str, new: ModelState) -> None:
        """Write, then report."""
        old = self.file.model(model)
        if new == old:
            return
        self.file.put_model(model, new)
        if new.state != "fetching":
            self._progress.pop(model, None)
        log.info("model %s: %s → %s %s", model, old.state, new.state, new.reason)
        self._reporter.model(self.report(model))

    def _refuse(self, refusal: Refusal) -> None:
        if self._refused.get(refusal.model) == refusal.reason + refusal.detail:
            return
        self._refused[refusal.model] = refusal.reason + refusal.detail
        log.warning("model %s release %d is refused: %s", refusal.model, refusal.release, refusal.detail)
        state = self.file.model(refusal.model)
        noted = machine.noted(state, refusal.reason, refusal.detail, refusal.hint)
        self._enter(refusal.model, noted)

    def _note_problem(self, error: Exception) -> None:
        from msgspec.structs import replace

        looked = self.file.state.looked
        problem = getattr(error, "reason", "failed")
        advice = getattr(error, "hint", "")
        self.file.put_looked(replace(looked, problem=problem, hint=f"{error}; {advice}" if advice else str(error)))
        self._on_look(self.file.state.looked)

    def _probation(self, model: str) -> Probation:
        channel = self.current_channel
        assert channel is not None  # an offer comes from a channel
        return channel.models[model].probation

    def _asked(self) -> Asked:
        states, looked = self.file.state.models, self.file.state.looked
        return Asked(
            device_id=self._device_id, channel=self._channel_name, kinds=self._kinds,
            runtimes=self._runtimes,
            variants=self._config.variants, capabilities=self._capabilities,
            committed={name: s.committed for name, s in states.items() if s.committed is not None},
            held={name: tuple(h for h in (s.active, s.previous) if h) for name, s in states.items()},
            groups=looked.groups, pins=looked.pins,
        )  # fmt: skip

    def _collect(self) -> None:
        in_use = [held for state in self.file.state.models.values() for held in state.in_use]
        freed = self.store.collect(in_use)
        log.info("removed %d bytes that no release needs", freed)

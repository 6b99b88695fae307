"""Applies a look's offers: every model is moved, step by step, to the release that the channel wants.

Each model is on its own: one that hangs, fails or does not fit neither holds up nor disturbs another.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable

from edge_agent.config import AgentConfig
from edge_agent.errors import ActivationError, CorruptBlobError, TrialError, UnreadableError, UpdateError, said
from edge_agent.ports import Activator
from edge_agent.update.activation import Activation
from edge_agent.update.download.shares import Shares
from edge_agent.update.messages import Failed, Offer, Refusal, StepDone, StepName, StepProgress
from edge_agent.update.rules import install_window, machine
from edge_agent.update.rules.model_state import HeldRelease, ModelState, UpdateTarget
from edge_agent.update.state_reporter import StateReporter
from edge_agent.update.worker.client import Children, LookChild
from edge_agent.update.worker.pool import WorkerPool, messages_until
from fleet.protocol.channel import Channel, Probation

log = logging.getLogger(__name__)

CUT_SHORT = ("hash-mismatch", "disk-full", "disk-error")  # words that say nothing bad about the release
MIN_RELOOK_S = 60.0  # between two looks while something is fetched
UNDER_WAY = ("fetching", "verifying", "trying")


class OfferApplier:
    """One per updater. `changes` are the locks by model that every change of a machine is made under;
    `held_until` says of the models that wait when they may begin, in seconds since 1970."""

    def __init__(
        self,
        config: AgentConfig,
        states: StateReporter,
        activation: Activation,
        activator: Activator,
        children: Children,
        *,
        budget: install_window.DayBudget,
        clock: Callable[[], float],
    ) -> None:
        self._config, self._states, self._activation = config, states, activation
        self._activator, self._children = activator, children
        self._budget, self._clock = budget, clock
        self._file = states.file
        self._trial = asyncio.Lock()  # one self-test at a time: each may take much memory
        self._refused: dict[str, Refusal] = {}
        self._shares = Shares(activation.store, budget, look_s=max(config.poll_s, MIN_RELOOK_S))
        self._stop = asyncio.Event()
        self._by_hand = False
        self.changes: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.held_until: dict[str, float] = {}

    async def clear_up(self) -> None:
        """Nothing is under way before a look: what says so was left by a task that ended in the middle."""
        for model, state in list(self._file.state.models.items()):
            if state.state in UNDER_WAY:
                async with self.changes[model]:
                    detail = f"it was cut short while {state.state}"
                    self._states.settle(model, machine.interrupted(state, "interrupted", detail, "it goes on now"))
                    await self._activation.serve(model)

    async def follow(
        self, pool: WorkerPool, offers: list[Offer], stop: asyncio.Event, *, by_hand: bool = False
    ) -> bool:
        """Move every model to its offer.

        Args:
            pool: lends the processes that fetch, verify and try.
            offers: one per model.
            stop: ends steps that are under way.
            by_hand: somebody asked for it; neither the window nor the budget holds it.

        Returns:
            True when `stop` has ended a step, so that a look should follow at once.

        Raises:
            UpdateError: a model's step failed for a reason that may pass; all others have ended, too.
        """
        self._stop, self._by_hand = stop, by_hand
        self._shares.expect(sum(self._is_to_fetch(offer) for offer in offers))
        found = await asyncio.gather(*(self._follow(pool, offer) for offer in offers), return_exceptions=True)
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

    async def prepare(self, pool: WorkerPool, model: str, held: HeldRelease) -> None:
        """Fetch, verify and try a release that is not to serve, after everything that is; no model's state changes.

        Args:
            pool: runs the fetch and the self-test.
            model: its name.
            held: the release.

        Raises:
            TrialError: it has not passed its self-test. UpdateError: it failed for a reason that may pass.
        """
        if (hold := self._hold()) is not None:
            raise UpdateError(hold.detail, subject=model, reason=hold.reason, hint=hold.hint)
        target = UpdateTarget(held=held)
        async with pool.lent() as child:
            await self._step(child, model, "fetch", target)
            await self._step(child, model, "verify", target)
        self._states.progress.pop(model, None)
        async with self._trial:
            self._file.keep_sandbox(await self._children.trial(held))

    def refuse(self, refusal: Refusal) -> None:
        """Note why a model's release may not run here; said once."""
        if self._refused.get(refusal.model) == refusal:
            return
        self._refused[refusal.model] = refusal
        log.warning("model %s release %d is refused: %s", refusal.model, refusal.release, refusal.detail)
        state = self._file.model(refusal.model)
        noted = machine.noted(state, refusal.reason, refusal.detail, refusal.hint, about=refusal.rollout)
        self._states.settle(refusal.model, noted)

    def _is_to_fetch(self, offer: Offer) -> bool:
        new = machine.wanted(self._file.model(offer.model), offer.target, self._probation(offer.model))
        return new is not None and new.state == "fetching"

    async def _follow(self, pool: WorkerPool, offer: Offer) -> None:
        model, target = offer.model, offer.target
        try:
            if not await self._begin(model, target):
                return
            async with pool.lent() as child:
                await self._step(child, model, "fetch", target)
                self._states.enter(model, machine.verifying(self._file.model(model)))
                await self._step(child, model, "verify", target)
            self._states.enter(model, machine.trying(self._file.model(model)))
            if self._file.model(model).state == "trying":
                await self._try(model, target)
        except (UpdateError, OSError) as error:
            word, hint = said(error)
            state = self._file.model(model)
            if state.state in UNDER_WAY:
                self._states.settle(model, machine.interrupted(state, word, str(error), hint))
            elif isinstance(error, OSError):
                self._states.settle(model, machine.noted(state, word, str(error), hint))
            raise UpdateError(str(error), subject=model, reason=word, hint=hint) from error

    async def _begin(self, model: str, target: UpdateTarget) -> bool:
        """Enter what the offer asks for; whether there is something to fetch now."""
        async with self.changes[model]:
            self._refused.pop(model, None)
            self.held_until.pop(model, None)
            state = self._file.model(model)
            new = machine.wanted(state, target, self._probation(model))
            if new is None:
                if self._is_stale(model, state, target):
                    self._states.settle(model, machine.noted(state, "", ""))
                return False
            if new.state == "fetching":
                if (hold := self._hold()) is None:
                    self._states.enter(model, new)
                    return True
                self.held_until[model] = hold.until
                new = machine.noted(state, hold.reason, hold.detail, hold.hint)
            self._states.settle(model, new)
            if (new.active, new.pairing) != (state.active, state.pairing):  # returned to what is held, or a rollout
                await self._activation.serve(model)  # began or ended around it
            return False

    def _is_stale(self, model: str, state: ModelState, target: UpdateTarget) -> bool:
        """Return whether a reason stands for something that is over: the device is where the channel wants it."""
        over = state.state == "committed" and target.held == state.active and not self._activation.waits(model)
        return over or state.reason in install_window.WORDS

    def _hold(self) -> install_window.Hold | None:
        if self._by_hand:
            return None
        budget = install_window.UNLIMITED if install_window.has_folder(self._config.mirrors) else self._budget
        return install_window.hold(self._channel.fetching, self._clock(), budget)

    @property
    def _channel(self) -> Channel:
        channel = self._file.state.looked.channel
        assert channel is not None  # an offer comes from a channel
        return channel

    def _probation(self, model: str) -> Probation:
        return self._channel.models[model].probation

    async def _step(self, child: LookChild, model: str, step: StepName, target: UpdateTarget) -> None:
        failure: Failed | None = None
        with self._shares.of(model, step, target.held, self._channel.fetching.max_bytes_per_s) as mine:
            async for message in messages_until(child, mine.step, self._stop):
                if isinstance(message, StepProgress):
                    self._states.progress[model] = message.share
                    self._budget.count(down=mine.more(message.received))
                elif isinstance(message, Failed):
                    failure = message
                elif isinstance(message, StepDone):
                    return
        failure = failure or Failed(reason="overtaken", detail="a newer notice came; what was fetched is kept")
        if failure.reason == "budget-spent":
            hold = install_window.spent(self._budget)
            failure = Failed(reason=hold.reason, detail=hold.detail, hint=hold.hint)
        raise UpdateError(failure.detail, subject=model, reason=failure.reason, hint=failure.hint)

    async def _try(self, model: str, target: UpdateTarget) -> None:
        try:
            async with self._trial:
                self._file.keep_sandbox(await self._children.trial(target.held))
            await self._activate(model, target)
        except (TrialError, ActivationError, CorruptBlobError, UnreadableError) as error:
            if isinstance(error, TrialError) and error.sandbox:
                self._file.keep_sandbox(error.sandbox)
            state = self._file.model(model)
            if error.reason == "killed":
                state, again = machine.killed(state, str(error))
                self._states.settle(model, state)
                if again:
                    raise UpdateError(str(error), subject=model, reason="interrupted", hint=error.hint) from error
                return
            if error.reason in CUT_SHORT:
                raise UpdateError(str(error), subject=model, reason=error.reason, hint=error.hint) from error
            self._states.settle(model, machine.rolled_back(state, error.reason, str(error), error.hint))

    async def _activate(self, model: str, target: UpdateTarget) -> None:
        async with self.changes[model]:
            state = self._file.model(model)
            baseline = self._activator.health(model)
            await self._activation.activate(model, target.held, state.active, target.rollout)
            try:
                self._states.enter(model, machine.activated(state, baseline))
            except OSError:  # a probation that nobody would remember does not begin
                await self._activation.serve(model)
                raise

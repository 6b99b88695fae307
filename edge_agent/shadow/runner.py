"""The orders of the hub's shadow stages, and their results.

A release is fetched, verified and tried like any other (`update.offers`), and runs in a process of its own from the
first request that is copied. A process that ends of itself is started anew a few times; then the release is given up,
which the hub hears. All shadows of the device share one share of the processor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from edge_agent.errors import ShadowError
from edge_agent.shadow.child import Answered
from edge_agent.shadow.copies import Copies, Copy
from edge_agent.shadow.pace import CoreShare
from edge_agent.shadow.process import Process, Processes
from edge_agent.update.messages import Beside
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.channel import Channel, RolloutRef
from fleet.protocol.errors import ProtocolError

log = logging.getLogger(__name__)

MOST_CRASHES = 3
MOST_TRIES = 3  # self-tests that are killed from outside
AGAIN_S = 60.0  # until a process is tried again that the device could not start
OUTSIDE = ("killed", "too-slow")  # ends of a process that say nothing of the release
NOT_HERE = ("gate-broken", "no-variant", "below-floor", "withdrawn", "unsupported:", "bad-manifest", "unsigned")
State = Literal["waiting", "comparing", "given-up"]


class Sink(Protocol):
    """Hears of comparisons."""

    def compared(self, copy: Copy, answered: Answered, dropped: int) -> None:
        """A request was compared; `dropped` were not since the last one, for want of room."""

    def crashed(self, copy: Copy) -> None:
        """The process ended while it had this request."""

    def not_compared(self, model: str, rollout: RolloutRef, reason: str) -> None:
        """The release is not compared here, in this attempt."""


class Shadowing(Struct):
    """One model's shadow. `state` is waiting while the release is not here yet, or cannot be used now."""

    rollout: RolloutRef
    held: HeldRelease | None = None
    state: State = "waiting"
    reason: str = ""
    detail: str = ""
    compared: int = 0
    crashes: int = 0
    outside: str = ""  # the first of them that was none of the release's own
    tries: int = 0
    process: Process | None = None
    cpu_s: float = 0.0  # that the process has taken


class Shadows:
    """One per agent. `now` is monotonic, seconds."""

    def __init__(
        self,
        processes: Processes,
        copies: Copies,
        sink: Sink,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._processes, self._copies, self._sink, self._now, self._sleep = processes, copies, sink, now, sleep
        self._pace = CoreShare()
        self._models: dict[str, Shadowing] = {}
        self._kept: dict[str, tuple[str, HeldRelease]] = {}  # the rollout that a release was fetched for

    # ---- what is ordered ----------------------------------------------------------------------

    async def follow(self, ordered: Sequence[Beside]) -> None:
        """End what is not ordered any more, and note what is new."""
        wanted = {beside.model: beside for beside in ordered}
        for model, shadowing in list(self._models.items()):
            if model not in wanted or not _same(shadowing, wanted[model]):
                await self._end(model)
        for model, beside in wanted.items():
            shadowing = self._models.setdefault(model, Shadowing(rollout=beside.rollout))
            shadowing.rollout = beside.rollout
            if beside.held is None:
                self.refused(beside, beside.reason, beside.detail)

    def wants(self, beside: Beside) -> bool:
        """Return whether the release is still to be fetched, verified and tried."""
        shadowing = self._models.get(beside.model)
        return beside.held is not None and shadowing is not None and shadowing.state == "waiting"

    def ready(self, beside: Beside) -> None:
        """The release is here and has passed its self-test."""
        assert beside.held is not None
        shadowing = self._models[beside.model]
        shadowing.held, shadowing.state, shadowing.reason, shadowing.detail = beside.held, "comparing", "", ""
        self._kept[beside.model] = beside.rollout.id, beside.held
        self._copies.wanted[beside.model] = beside.rollout
        log.info("model %s: release %d runs beside the one that serves", beside.model, beside.rollout.release)

    def failed(self, beside: Beside, reason: str, detail: str) -> None:
        """The release has not passed its self-test; one that was killed from outside may try again."""
        shadowing = self._models[beside.model]
        shadowing.tries += 1
        if reason == "killed" and shadowing.tries < MOST_TRIES:
            shadowing.reason, shadowing.detail = reason, detail
            return
        self._give_up(beside.model, reason, detail)

    def refused(self, beside: Beside, reason: str, detail: str) -> None:
        """The release is not here: for good where it may not run here, else until the next look."""
        shadowing = self._models[beside.model]
        if shadowing.state == "waiting" and reason.startswith(NOT_HERE):
            self._give_up(beside.model, reason, detail)
        elif shadowing.state == "waiting":
            shadowing.reason, shadowing.detail = reason, detail

    def kept(self, channel: Channel | None) -> list[HeldRelease]:
        """Return the releases that stay on the disk: those of a live rollout, since its next stage may need them."""
        live = {} if channel is None else {m: e.rollout.id for m, e in channel.models.items() if e.rollout is not None}
        self._kept = {model: kept for model, kept in self._kept.items() if live.get(model) == kept[0]}
        return [held for _, held in self._kept.values()]

    def document(self) -> dict[str, Any]:
        """Return the shadows' part of `/status`, by model."""
        return {
            model: {
                "release": one.rollout.release,
                "rollout": one.rollout.id,
                "state": one.state,
                "reason": one.reason,
                "detail": one.detail,
                "compared": one.compared,
                "crashes": one.crashes,
            }
            for model, one in self._models.items()
        }

    # ---- what is compared ---------------------------------------------------------------------

    async def run(self) -> None:
        """Compare until cancelled; then end every process."""
        try:
            while True:
                await self.step()
        finally:
            for model in list(self._models):
                await self._end(model)

    async def step(self) -> None:
        """Wait until the processor's share allows it and there is a copy, and compare that."""
        wait_s = self._pace.wait_s(self._now())
        if wait_s:
            await self._sleep(wait_s)
        await self._copies.come()
        copy = self._copies.take()
        shadowing = self._models.get(copy.model) if copy is not None else None
        if copy is not None and shadowing is not None and shadowing.state == "comparing":
            await self._compare(copy, shadowing)

    async def _compare(self, copy: Copy, shadowing: Shadowing) -> None:
        assert shadowing.rollout.shadow is not None
        began, share = self._now(), shadowing.rollout.shadow.cpu_share
        try:
            answered, cpu_s = await self._ask(copy, shadowing)
        except ShadowError as error:
            self._pace.spent(self._now() - began, share, began)  # nobody says any more what it took
            if self._models.get(copy.model) is shadowing:  # else it was ended here
                await self._crash(copy, shadowing, error)
            return
        except (OSError, ProtocolError) as error:  # the device's trouble, or a request that cannot be copied
            log.info("model %s: a request is not compared: %s", copy.model, error)
            self._pace.spent(AGAIN_S * share if isinstance(error, OSError) else 0.0, share, began)
            return
        self._pace.spent(cpu_s, share, began)
        if self._models.get(copy.model) is shadowing:
            shadowing.compared += 1
            self._sink.compared(copy, answered, self._copies.dropped(copy.model))

    async def _ask(self, copy: Copy, shadowing: Shadowing) -> tuple[Answered, float]:
        """The answer, and the processor's seconds since the last one."""
        assert shadowing.held is not None
        before = shadowing.cpu_s
        if shadowing.process is None:
            before = 0.0
            process, _ = await self._processes.start(shadowing.held)
            if self._models.get(copy.model) is not shadowing:
                await process.close()
                raise ShadowError("it is not wanted any more")
            shadowing.process = process
        answered = await shadowing.process.ask(copy)
        shadowing.cpu_s = answered.cpu_s
        return answered, answered.cpu_s - before

    async def _crash(self, copy: Copy, shadowing: Shadowing, error: ShadowError) -> None:
        process, shadowing.process, shadowing.crashes = shadowing.process, None, shadowing.crashes + 1
        if error.reason in OUTSIDE:
            shadowing.outside = shadowing.outside or error.reason
        if process is not None:
            await process.close()
        log.warning("model %s: release %d, beside: %s", copy.model, shadowing.rollout.release, error)
        self._sink.crashed(copy)
        ours = self._models.get(copy.model) is shadowing  # another order may have come meanwhile
        if ours and shadowing.crashes >= MOST_CRASHES:
            self._give_up(copy.model, shadowing.outside or "crash-loop", str(error))

    def _give_up(self, model: str, reason: str, detail: str) -> None:
        shadowing = self._models[model]
        shadowing.state, shadowing.reason, shadowing.detail = "given-up", reason, detail
        self._copies.forget(model)
        log.warning("model %s: release %d is not compared: %s", model, shadowing.rollout.release, detail)
        self._sink.not_compared(model, shadowing.rollout, reason)

    async def _end(self, model: str) -> None:
        shadowing = self._models.pop(model)
        self._copies.forget(model)
        process, shadowing.process = shadowing.process, None
        if process is not None:
            await process.close()


def _same(shadowing: Shadowing, beside: Beside) -> bool:
    """Return whether an order is the one that is carried out; one that cannot be read anew just now is."""
    one, other = shadowing.rollout, beside.rollout
    if (one.id, one.attempt, one.release) != (other.id, other.attempt, other.release):
        return False
    if beside.held is None:
        return shadowing.state != "comparing" or not beside.reason.startswith(NOT_HERE)
    return shadowing.held in (None, beside.held)

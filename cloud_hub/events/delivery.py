"""The services that deliver: one spreads events to targets and forgets old ones, and each target has one of its own.

So a target that hangs, or a failure about one, holds up neither the others nor anything else of the hub.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable

from msgspec import Struct

from cloud_hub.clock import Jumps
from cloud_hub.context import Hub
from cloud_hub.events import mqtt, outbox, sending, signing
from cloud_hub.events.bodies import body
from cloud_hub.events.schedule import AttemptResult, DeliveryState, judge_attempt
from cloud_hub.events.targets import Target, open_targets
from cloud_hub.services.leases import hold_lease
from cloud_hub.services.supervisor import Service
from cloud_hub.store.tables import EventRow
from fleet.protocol.durations import DAY_S

log = logging.getLogger(__name__)
PRUNE_S = 600.0
SPARE_S = 60.0  # a claim outlasts a try by so much


class Letter(Struct, frozen=True):
    """A message to a target: the event's kind, its body, and the signature's headers where there is one."""

    kind: str
    content: bytes
    headers: dict[str, str] = {}


Send = Callable[[Target, Letter], Awaitable[AttemptResult]]


async def send(target: Target, letter: Letter) -> AttemptResult:
    """One try over the network."""
    private, timeout_s = target.settings.allow_private, target.settings.timeout_s
    if target.topic:
        topic = f"{target.topic}/{letter.kind}"
        message = mqtt.Message(topic, letter.content)
        return await mqtt.publish(
            target.place, message, target.context, target.login, allow_private=private, timeout_s=timeout_s
        )
    return await sending.post(
        target.place, letter.content, letter.headers, target.context, allow_private=private, timeout_s=timeout_s
    )


class Spreading:
    """Gives each event its deliveries, and forgets events by age and number."""

    name = "events"

    def __init__(self, hub: Hub, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._owner = secrets.token_hex(8)
        self._pruned_at: float | None = None
        self._jumps = Jumps(monotonic)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(self._hub.config.events.every_s)

    def look(self) -> int:
        """Spread what is new; returns how many events were."""
        now, config = self._hub.clock(), self._hub.config.events
        jump_s = self._jumps.seen(now)
        if self._pruned_at is None or abs(now - self._pruned_at) >= PRUNE_S:
            self._prune(now)
        with self._hub.reading() as session:
            if not outbox.unspread(session):
                return 0
        with self._hub.session() as session:
            return outbox.spread(session, {name: one.kinds for name, one in config.targets.items()}, now, jump_s)

    def _prune(self, now: float) -> None:
        config = self._hub.config.events
        with self._hub.session() as session:
            if hold_lease(session, "events-prune", self._owner, now, PRUNE_S):
                outbox.end_removed(session, config.targets, now)
                outbox.prune(session, now, keep_s=config.keep_days * DAY_S, most=config.keep)
        self._pruned_at = now


class Delivering:
    """Delivers to one target; `send` and `chance` are the network and evenly drawn numbers from 0 to 1."""

    def __init__(
        self,
        hub: Hub,
        target: Target,
        send: Send = send,
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"events:{target.name}"
        self._hub, self._target = hub, target
        self._send, self._chance = send, chance
        self._owner = secrets.token_hex(8)
        self._jumps = Jumps(monotonic)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if not await self.step():
                await asyncio.sleep(self._hub.config.events.every_s)

    async def step(self) -> int:
        """Try what is due, `parallel` at a time; returns how many were tried."""
        claimed = await asyncio.to_thread(self._claim)
        await asyncio.gather(*(self._deliver(one) for one in claimed))
        return len(claimed)

    def _claim(self) -> list[outbox.Claimed]:
        now, target = self._hub.clock(), self._target
        jump_s = self._jumps.seen(now)
        if jump_s:
            log.warning("the clock has jumped ahead by %.0f s: what waits for %s ends later", jump_s, target.name)
            with self._hub.session() as session:
                outbox.postpone(session, target.name, jump_s, now)
        with self._hub.reading() as session:
            if not outbox.is_due(session, target.name, now):
                return []
        lasts_s = target.settings.timeout_s + SPARE_S
        with self._hub.session() as session:
            return outbox.claim(session, target.name, self._owner, now, lasts_s=lasts_s, limit=target.settings.parallel)

    async def _deliver(self, claimed: outbox.Claimed) -> None:
        began = self._hub.clock()
        row = await asyncio.to_thread(self._event, claimed.event)
        if row is None:
            return  # it was forgotten meanwhile, and its deliveries with it
        if began > claimed.expires_at:
            outcome = AttemptResult(error="not sent: it is older than a day")
        else:
            outcome = await self._send(self._target, self._letter(row, began))
        await asyncio.to_thread(self._settle, claimed, outcome, began)

    def _letter(self, row: EventRow, now: float) -> Letter:
        content = body(self._target.settings.format, row, self._hub.config.addresses.http_advertise)
        key = self._target.key
        return Letter(row.kind, content, signing.sign(key, row.id, int(now), content) if key else {})

    def _event(self, event: str) -> EventRow | None:
        with self._hub.reading() as session:
            return outbox.find(session, event)

    def _settle(self, claimed: outbox.Claimed, outcome: AttemptResult, began: float) -> None:
        now, settings = self._hub.clock(), self._target.settings
        verdict = judge_attempt(
            outcome,
            tries=claimed.tries,
            most=settings.tries,
            expires_at=claimed.expires_at,
            now=now,
            chance=self._chance(),
        )
        tried = {
            "at": began,
            "status": outcome.status,
            "error": verdict.error,
            "took_s": round(max(0.0, now - began), 3),
        }
        with self._hub.session() as session:
            ours = outbox.settle(session, claimed.event, self._target.name, self._owner, verdict, tried, now)
        if ours:
            self._say(claimed, verdict)

    def _say(self, claimed: outbox.Claimed, verdict: DeliveryState) -> None:
        ids = {"event": claimed.event, "target": self._target.name}
        if verdict.state == "dead":
            log.warning("event %s did not reach %s: %s", claimed.event, self._target.name, verdict.error, extra=ids)
        elif verdict.state == "waiting":
            log.info("event %s to %s is tried again: %s", claimed.event, self._target.name, verdict.error, extra=ids)


def services(hub: Hub) -> list[Service]:
    """The services of this module; InvalidError for a target that cannot be opened."""
    targets = open_targets(hub.config.events, os.environ, hub.config.broker.prefix)
    return [Spreading(hub), *(Delivering(hub, target) for target in targets)]

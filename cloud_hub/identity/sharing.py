"""Hubs tell each other through the database how often callers with a rate ask them, so that all give one rate."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from sqlmodel import col, delete, func, select

from cloud_hub.context import Hub
from cloud_hub.identity.rates import RateLimiter
from cloud_hub.store.tables import CallerUse

EVERY_S = 1.0
TRUE_FOR_S = 3.0  # what a hub told: it tells again each second, or has ended
ALONE_S = 30.0  # from one time to the next that a hub tells which hears of no other
KEPT_S = 3600.0  # of a hub that has ended
MOST_READ = 10_000  # callers of other hubs in one look


class RateSharing:
    """Says what this process was asked and hears what others were, once a second; for the limiter's event loop.

    A hub that no caller asks for a tenth of its rate neither writes nor reads. One that hears of no other writes only
    now and then: another one that begins to tell is heard within a second, and answered in the next.
    """

    name = "rates"

    def __init__(
        self,
        hub: Hub,
        rates: RateLimiter,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._hub, self._rates, self._monotonic, self._sleep = hub, rates, monotonic, sleep
        self._owner = secrets.token_hex(8)
        self._told_at: float | None = None  # since when there is something of this hub in the table

    async def run(self) -> None:
        """Until cancelled."""
        last = self._monotonic()
        while True:
            await self._sleep(EVERY_S)
            now = self._monotonic()
            mine = self._rates.tell(max(now - last, EVERY_S))  # more than a second where the database was slow
            last = now
            self._rates.told(mine, await asyncio.to_thread(self.exchange, mine))

    def exchange(self, mine: dict[str, float]) -> dict[str, float]:
        """Tell what this hub was asked per second, by caller; returns what all others were. Blocks."""
        if not mine and self._told_at is None:
            return {}
        others, now = self._others(), self._hub.clock()
        lately = self._told_at is not None and 0.0 <= now - self._told_at < ALONE_S
        if others or not mine or not lately:
            self._tell(mine, now)
        return others

    def _tell(self, mine: dict[str, float], now: float) -> None:
        with self._hub.session() as session:
            gone = (col(CallerUse.hub) == self._owner) | (col(CallerUse.at) < now - KEPT_S)
            session.exec(delete(CallerUse).where(gone))
            session.add_all(CallerUse(hub=self._owner, caller=key, per_s=asked, at=now) for key, asked in mine.items())
        self._told_at = now if mine else None

    def _others(self) -> dict[str, float]:
        now = self._hub.clock()
        of_others = (col(CallerUse.hub) != self._owner) & col(CallerUse.at).between(now - TRUE_FOR_S, now + TRUE_FOR_S)
        asked = func.sum(col(CallerUse.per_s))
        query = select(CallerUse.caller, asked).where(of_others).group_by(col(CallerUse.caller)).limit(MOST_READ)
        with self._hub.reading() as session:
            return dict(session.exec(query).all())

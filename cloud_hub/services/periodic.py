"""Looking again and again, by one replica at a time."""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod

from prometheus_client import Summary

from cloud_hub.context import Hub
from cloud_hub.services.leases import hold_lease

# In no registry of their own: `api.monitoring.install` adds them to the application's.
LOOKS = Summary("edgeloop_hub_look_seconds", "How long a service's looks take", ["service"], registry=None)
BUSY = Summary("edgeloop_hub_look_cpu_seconds", "The processor's part of them", ["service"], registry=None)


class PeriodicService(ABC):
    """A service that looks every `every_s` seconds; among replicas only the holder of its lease does.

    The lease lasts `LEASE_S`, so a replica that died is replaced by then. A third of it may pass before it is renewed:
    a look each second would otherwise be a durable write each second, for which those who have something to say wait.
    """

    LEASE_S = 30.0
    name = "periodic"

    def __init__(self, hub: Hub, every_s: float) -> None:
        self._hub = hub
        self._every_s = every_s
        self._owner = secrets.token_hex(8)
        self._renewed_at: float | None = None  # None: the lease is not held

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.to_thread(self.step)
            await asyncio.sleep(self._every_s)

    def step(self) -> None:
        """Look once, unless another replica does."""
        if self._leads():
            began, worked = time.perf_counter(), time.thread_time()
            self.look()
            LOOKS.labels(self.name).observe(time.perf_counter() - began)
            BUSY.labels(self.name).observe(time.thread_time() - worked)

    def _leads(self) -> bool:
        now = self._hub.clock()
        if self._renewed_at is not None and 0 <= now - self._renewed_at < self.LEASE_S / 3:
            return True
        self._renewed_at = None
        with self._hub.session() as session:
            if hold_lease(session, self.name, self._owner, now, self.LEASE_S):
                self._renewed_at = now
        return self._renewed_at is not None

    @abstractmethod
    def look(self) -> None:
        """One look; blocking."""

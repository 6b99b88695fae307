"""Looking again and again, by one replica at a time."""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod

from prometheus_client import Summary

from cloud_hub.context import Hub
from cloud_hub.services.leases import hold

# In no registry of their own: `api.monitoring.install` adds them to the application's.
LOOKS = Summary("edgeloop_hub_look_seconds", "How long a service's looks take", ["service"], registry=None)
BUSY = Summary("edgeloop_hub_look_cpu_seconds", "The processor's part of them", ["service"], registry=None)


class PeriodicService(ABC):
    """A service that looks every `every_s` seconds; among replicas only the holder of its lease does.

    The lease is renewed at each look and lasts `LEASE_S`, so a replica that died is replaced by then.
    """

    LEASE_S = 30.0
    name = "periodic"

    def __init__(self, hub: Hub, every_s: float) -> None:
        self._hub = hub
        self._every_s = every_s
        self._owner = secrets.token_hex(8)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.to_thread(self.step)
            await asyncio.sleep(self._every_s)

    def step(self) -> None:
        """Look once, unless another replica does."""
        with self._hub.session() as session:
            leading = hold(session, self.name, self._owner, self._hub.clock(), self.LEASE_S)
        if leading:
            began, worked = time.perf_counter(), time.thread_time()
            self.look()
            LOOKS.labels(self.name).observe(time.perf_counter() - began)
            BUSY.labels(self.name).observe(time.thread_time() - worked)

    @abstractmethod
    def look(self) -> None:
        """One look; blocking."""

"""Looking again and again, by one replica at a time."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod

from cloud_hub.context import Hub
from cloud_hub.services.leases import hold


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
            self.look()

    @abstractmethod
    def look(self) -> None:
        """One look; blocking."""

"""The service that deletes samples at the end of their retention."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from cloud_hub.context import Hub
from cloud_hub.samples import store

log = logging.getLogger(__name__)
EVERY_S = 3600.0


class Retention:
    """Sweeps once an hour. What it deletes is gone, so it does not trust a clock that has just jumped ahead."""

    name = "sample-retention"

    def __init__(self, hub: Hub, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._hub, self._monotonic = hub, monotonic
        self._last: tuple[float, float] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            gone = await asyncio.to_thread(self.look)
            if gone:
                log.info("deleted %d samples at the end of their retention", gone)
            await asyncio.sleep(EVERY_S)

    def look(self) -> int:
        """Sweep, unless the clock has jumped since the last look; returns how many samples were deleted."""
        here = self._hub.clock(), self._monotonic()
        before, self._last = self._last or here, here
        jump = (here[0] - before[0]) - (here[1] - before[1])
        if jump > EVERY_S:
            log.warning("the clock has jumped ahead by %.0f s: no sample is deleted for an hour", jump)
            return 0
        return store.sweep(self._hub)

"""The service that deletes samples at the end of their retention."""

from __future__ import annotations

import asyncio
import logging

from starlette.concurrency import run_in_threadpool

from cloud_hub.context import Hub
from cloud_hub.samples import store

log = logging.getLogger(__name__)
EVERY_S = 3600.0


class Retention:
    """Sweeps once an hour."""

    name = "sample-retention"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            gone = await run_in_threadpool(store.sweep, self._hub)
            if gone:
                log.info("deleted %d samples at the end of their retention", gone)
            await asyncio.sleep(EVERY_S)

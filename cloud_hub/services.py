"""Long-running tasks that `serve` starts, and their supervisor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

log = logging.getLogger(__name__)

RESTART_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Service(Protocol):
    """A task that runs until it is cancelled. It may return early when it has nothing to do."""

    name: str

    async def run(self) -> None:
        """Run; asyncio.CancelledError ends it."""
        ...


async def run_services(services: Sequence[Service]) -> None:
    """Run all services until this task is cancelled; one that fails is logged and started again."""
    async with asyncio.TaskGroup() as group:
        for service in services:
            group.create_task(_supervise(service), name=service.name)


async def _supervise(service: Service) -> None:
    failures = 0
    while True:
        try:
            await service.run()
            return
        except Exception:  # the boundary of a named task: logged, then started again
            pause = RESTART_S[min(failures, len(RESTART_S) - 1)]
            failures += 1
            log.exception("service %s failed; it starts again in %.1f s", service.name, pause)
            await asyncio.sleep(pause)

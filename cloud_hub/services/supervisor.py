"""Long-running tasks that `serve` starts, and their supervisor."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

log = logging.getLogger(__name__)

RESTART_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0  # a service that ran for so long did start: its next failure is a first one again


class Backoff:
    """Pauses after failures (`RESTART_S`): longer each time, and from the first one again after a success."""

    def __init__(self) -> None:
        self.failures = 0

    def failed(self) -> float:
        """Count a failure; returns how many seconds to wait."""
        pause = RESTART_S[min(self.failures, len(RESTART_S) - 1)]
        self.failures += 1
        return pause

    def worked(self) -> None:
        """Forget the failures."""
        self.failures = 0


class Service(Protocol):
    """A task that runs until it is cancelled. It may return early when it has nothing to do."""

    name: str

    async def run(self) -> None:
        """Run; asyncio.CancelledError ends it."""
        ...


async def run_services(services: Sequence[Service], now: Callable[[], float] = time.monotonic) -> None:
    """Run all services until this task is cancelled; one that fails is logged and started again."""
    async with asyncio.TaskGroup() as group:
        for service in services:
            group.create_task(_supervise(service, now), name=service.name)


async def _supervise(service: Service, now: Callable[[], float]) -> None:
    backoff = Backoff()
    while True:
        began = now()
        try:
            await service.run()
            return
        except Exception:  # the boundary of a named task: logged, then started again
            if now() - began >= STEADY_S:
                backoff.worked()
            pause = backoff.failed()
            log.exception("service %s failed; it starts again in %.1f s", service.name, pause)
            await asyncio.sleep(pause)

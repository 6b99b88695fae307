"""The interpreters of one release: one to begin with, more when requests queue for it, as cores and memory allow.

A LiteRT interpreter is one set of tensors, so it answers one request at a time; an ONNX session answers several, and
counts as several of itself. Requests that need a thread wait here, first come, first served, no more than `QUEUE`, and
no longer than their deadline. A run that is too short for a thread uses a free one on the event loop and never waits.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable
from concurrent.futures import Executor

from edge_agent.errors import InferenceError, LateError
from edge_agent.ports import LoadedModel

log = logging.getLogger(__name__)

QUEUE = 64  # requests that wait for an interpreter of a release
EXTRA_BYTES = 256 << 20  # that all interpreters but the first may take
PER_BYTE = 3  # times the file's size; what an interpreter takes, roughly


def most_interpreters(size: int, cores: int | None = None) -> int:
    """Return the most interpreters for a model file of `size` bytes; `cores` are this machine's by default."""
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    return max(1, min(cores, 1 + EXTRA_BYTES // max(PER_BYTE * size, 1)))


class Instances:
    """For one event loop, from the first `take` on.

    Args:
        first: the model that is loaded.
        load: makes another one, in a thread; None where the first one answers several requests at once.
        limit: how many there may be.
    """

    def __init__(self, first: LoadedModel, load: Callable[[], LoadedModel] | None, limit: int) -> None:
        self._load, self._limit = load, limit
        self._all = [first]
        self._idle = [first] * (1 if load is not None else limit)
        self._places = asyncio.Semaphore(len(self._idle))
        self._closed = False
        self._loading: asyncio.Future[None] | None = None
        self.waiting = 0

    def __len__(self) -> int:
        """Count the loaded interpreters."""
        return len(self._all)

    def idle(self) -> LoadedModel | None:
        """One that nobody uses, for a run on the event loop, which does not yield while it runs; None without one."""
        return self._idle[-1] if self._idle else None

    async def take(self, until: float | None, cost_s: float, pool: Executor | None = None) -> LoadedModel:
        """One for a run in a thread; `give` it back.

        Args:
            until: the request's deadline by the event loop's clock, None for none.
            cost_s: what a run takes, for whoever is told when to come back.
            pool: where another one is loaded when there is none to take; by default the event loop's.

        Raises:
            InferenceError: too many wait already. LateError: the deadline came first.
        """
        if self._places.locked():
            if self.waiting >= QUEUE:
                later = max(1.0, math.ceil(cost_s * QUEUE / len(self._all)))
                raise InferenceError(
                    f"{QUEUE} requests wait for this model", hint="try again", retry_after_s=later, busy=True
                )
            self._grow(pool)
        self.waiting += 1
        try:
            async with asyncio.timeout_at(until):
                await self._places.acquire()
        except TimeoutError:
            raise LateError("the deadline passed while others had the model") from None
        finally:
            self.waiting -= 1
        return self._idle.pop()

    def give(self, model: LoadedModel) -> None:
        """Back, for the next one."""
        self._idle.append(model)
        self._places.release()

    def close(self) -> None:
        """Close all; nobody may use one any more."""
        self._closed = True
        for model in self._all:
            model.close()

    def _grow(self, pool: Executor | None = None) -> None:
        if self._load is None or self._loading is not None or len(self._all) >= self._limit:
            return
        loading = asyncio.get_running_loop().run_in_executor(pool, self._load)
        loading.add_done_callback(self._grown)
        self._loading = loading  # type: ignore[assignment]

    def _grown(self, loading: asyncio.Future[LoadedModel]) -> None:
        self._loading = None
        error = None if loading.cancelled() else loading.exception()
        if loading.cancelled() or error is not None:
            self._limit = len(self._all)
            log.warning("there will be no further interpreter of a model: %s", error)
        elif self._closed:
            loading.result().close()
        else:
            self._all.append(loading.result())
            self.give(loading.result())

"""The children of one look, lent to the models that have something to do.

The child that looked takes the first model's steps; every further model that is under way at the same
time gets a child of its own, so that a fetch that hangs or a child that dies is that model's affair alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import replace

from edge_agent.update.download.shares import AT_ONCE
from edge_agent.update.messages import LookRequest, Message, StepRequest
from edge_agent.update.worker.client import Children, LookChild


class WorkerPool:
    """Starts with the child that looked; `asked` is what it was asked. Close it at the end of the look."""

    def __init__(self, children: Children, first: LookChild, asked: LookRequest) -> None:
        self._children, self._asked = children, asked
        self._all, self._idle = [first], [first]
        self._room = asyncio.Semaphore(AT_ONCE)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[LookChild]:
        """A child for one model's steps; one whose step did not end well is not lent again.

        Raises:
            UpdateError: no further child could be started.
        """
        async with self._room:
            child = self._idle.pop() if self._idle else await self._another()
            yield child
            self._idle.append(child)

    async def close(self) -> None:
        """End them all; what was downloaded stays."""
        await asyncio.gather(*(child.close() for child in self._all))

    async def _another(self) -> LookChild:
        child = await self._children.start()
        self._all.append(child)
        await child.look(replace(self._asked, steps_only=True))
        return child


async def messages_until(child: LookChild, step: StepRequest, stop: asyncio.Event) -> AsyncIterator[Message]:
    """Yield the messages of `child` about `step`, until `stop` is set.

    Args:
        child: does the step.
        step: the request that it answers.
        stop: ends the waiting; the child goes on.
    """
    stopping = asyncio.ensure_future(stop.wait())
    iterator = aiter(child.step(step))
    try:
        while True:
            coming: asyncio.Future[Message] = asyncio.ensure_future(anext(iterator))
            both: set[asyncio.Future[Any]] = {coming, stopping}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                return
            try:
                yield coming.result()
            except StopAsyncIteration:
                return
    finally:
        stopping.cancel()

"""The service that answers requests of `async_queue`, in every instance that answers inference requests.

It is one more caller of the endpoint that answers over HTTP: the same codec, queue, batches, budget and refusals, with
a deadline of its own.

A fault of ours ends one attempt at one request: its lease is not renewed any more, and an instance takes it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable

import msgspec

from cloud_hub.context import Hub
from cloud_hub.errors import BusyError, HubError
from cloud_hub.inference import async_queue
from cloud_hub.inference.endpoint import InferEndpoint
from cloud_hub.inference.loaded import Loaded
from cloud_hub.inference.metrics import Answers
from cloud_hub.store.tables import AsyncRequest
from fleet.protocol.refusals import STATUS
from fleet.serving import ByteBudget, HotRequest, Reply

log = logging.getLogger(__name__)

POLL_S = 1.0  # between two looks for what other instances have taken in
AGAIN_S = 2.0  # until a request that found no room is tried again, or a database that did not answer is asked again
SWEEP_S = 60.0


class AsyncRunner:
    """For one event loop; `wake` after a request was taken in here.

    `endpoint` answers, and its counters are nobody's: the time that a request waits here is no latency, and one that
    is tried again has no answer yet. `answers` counts the answers that are kept.
    """

    name = "async-inference"

    def __init__(self, hub: Hub, loaded: Loaded, endpoint: InferEndpoint, budget: ByteBudget, answers: Answers) -> None:
        self._hub, self._loaded, self._endpoint, self._budget = hub, loaded, endpoint, budget
        self._answers = answers
        self._settings = hub.config.inference.asynchronous
        self._id = secrets.token_hex(8)
        self._held: set[async_queue.Attempt] = set()
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There is something to do."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled; what runs then is taken over when its lease ends."""
        places = asyncio.Semaphore(self._settings.running)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(async_queue.LEASE_S / 3, self._renew))
            group.create_task(self._every(SWEEP_S, self._sweep))
            while True:
                await places.acquire()
                row = await self._next()
                group.create_task(self._attempt(row)).add_done_callback(lambda _: places.release())

    async def step(self) -> bool:
        """Answer one request, if there is one."""
        row = await asyncio.to_thread(async_queue.claim, self._hub, self._id)
        if row is not None:
            await self._attempt(row)
        return row is not None

    async def _next(self) -> AsyncRequest:
        while True:
            self._news.clear()
            try:
                row = await asyncio.to_thread(async_queue.claim, self._hub, self._id)
            except Exception:  # the boundary of a look: whatever the database says, there is another one
                log.exception("cannot look for inference requests; looking again in %g s", AGAIN_S)
                await asyncio.sleep(AGAIN_S)
                continue
            if row is not None:
                return row
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), POLL_S)

    async def _attempt(self, row: AsyncRequest) -> None:
        attempt = async_queue.Attempt(row.id, row.attempt)
        self._held.add(attempt)
        try:
            await self._one(row)
        except Exception:  # the boundary of a request: the others go on
            log.exception("attempt %d at request %s failed; it is taken again when its lease ends", row.attempt, row.id)
        finally:
            self._held.discard(attempt)

    async def _one(self, row: AsyncRequest) -> None:
        try:
            reply = await self._answered(row)
        except HubError as error:
            reply = self._endpoint.refusal(error)
        await asyncio.to_thread(self._keep, row, reply)
        if reply.status != STATUS["busy"]:
            self._answers.counted(reply.status, None)

    async def _answered(self, row: AsyncRequest) -> Reply:
        served = await self._loaded.get(row.model, str(row.release))
        body = await asyncio.to_thread(async_queue.body_of, self._hub, row)
        headers = {name.encode(): value.encode() for name, value in row.headers.items()}
        request = HotRequest(b"POST", b"", headers, asyncio.get_running_loop().time(), unix=False)
        self._endpoint.enter(request, served, longest_s=self._settings.deadline_s)
        if not self._budget.fits(len(body)):
            raise BusyError(self._budget.full(len(body)), subject="body")
        request.body = body
        self._budget.taken += len(body)
        try:
            return await self._endpoint.answer(request)
        finally:
            self._budget.taken -= len(body)

    def _keep(self, row: AsyncRequest, reply: Reply) -> None:
        if reply.status == STATUS["busy"]:  # or the store does not answer
            async_queue.give_back(self._hub, row, AGAIN_S)
        elif reply.status == 200:
            lines = (line.split(": ", 1) for line in reply.headers.decode("latin-1").split("\r\n") if line)
            async_queue.succeed(self._hub, row, reply.body, dict(lines))
        else:
            document = msgspec.json.decode(reply.body)
            async_queue.fail(self._hub, row, document["code"], document["error"])

    async def _renew(self) -> None:
        await asyncio.to_thread(async_queue.renew, self._hub, self._id, frozenset(self._held))

    async def _sweep(self) -> None:
        gone = await asyncio.to_thread(async_queue.sweep, self._hub)
        if gone:
            log.info("deleted %d requests that were answered, or not fetched, in time", gone)

    @staticmethod
    async def _every(seconds: float, what: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await what()
            except Exception:  # the boundary of a round: the next one may succeed
                log.exception("leases are not renewed, or old requests not deleted; trying again in %g s", seconds)

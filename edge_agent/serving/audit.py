"""Audits: the auditor's second opinion on randomly drawn requests, off the request path.

In a rollout's cohort the old release answers too (in a thread, from its shadow slot), and the pair
says which of both agrees with the auditor. The queue is bounded; what does not fit is counted and
dropped, which is random with respect to the answers.

Audits have calls of their own, so that they take no place of a deferred request, and say nothing to its breaker.
A cloud that is too busy for them is left alone as long as it asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from edge_agent.serving.answers import answers_of, checked
from edge_agent.serving.cloud import Cloud, CloudError
from edge_agent.serving.failures import error_in_words, unforeseen
from edge_agent.serving.scores import check_outputs
from edge_agent.serving.slots import Arrays, Served
from fleet import tasks
from fleet.protocol import oip
from fleet.protocol.channel import RolloutRef
from fleet.protocol.errors import MalformedError
from fleet.protocol.pairing import input_keys

log = logging.getLogger(__name__)

WAITING = 256  # audits
WAITING_BYTES = 16 << 20  # of their inputs; one audit may always wait
WORKERS = 2
TIMEOUT_S = 10.0


class Job(NamedTuple):
    """A drawn request; `served` and `shadow` are leased until the audit is done."""

    served: Served
    shadow: Served | None
    pairing: RolloutRef | None
    auditor: int
    inputs: Arrays
    answers: tuple[Any, ...]


class Audited(NamedTuple):
    """Per row: did the answer agree with the auditor, by the model's task, and (old, new) right in a pair."""

    job: Job
    agree: tuple[bool, ...]
    pairs: tuple[tuple[bool, bool], ...]
    keys: tuple[bytes, ...] = ()  # of the pairs' inputs


class AuditSink(Protocol):
    """Hears of finished audits."""

    def audited(self, result: Audited) -> None:
        """One audit came back."""


class Auditor:
    """A bounded queue and its workers. `dropped` counts audits without an outcome."""

    def __init__(
        self,
        cloud: Cloud | None,
        sink: AuditSink,
        *,
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._cloud = cloud
        self._sink = sink
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._queue: asyncio.Queue[Job] = asyncio.Queue(WAITING)
        self._bytes = 0  # of the inputs of queued audits and of those at work
        self.dropped = 0

    def offer(self, job: Job) -> None:
        """Queue an audit, or count it as dropped; never waits."""
        size = _size(job)
        if self._cloud is None or self._queue.full() or (self._bytes and self._bytes + size > WAITING_BYTES):
            self.dropped += 1
            return
        self._bytes += size
        for served in (job.served, job.shadow):
            if served is not None:
                served.references += 1
        self._queue.put_nowait(job)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())

    async def drain(self) -> None:
        """Return when every queued audit is done."""
        await self._queue.join()

    async def _work(self) -> None:
        while True:
            job = await self._queue.get()
            pause_s = 0.0
            try:
                self._sink.audited(await self._judge(job))
            except Exception as error:  # the shadow's runtime may raise anything, and the queue's other audits go on
                self.dropped += 1
                pause_s = (error.retry_after_s or 0.0) if isinstance(error, CloudError) else 0.0
                model, trace = job.served.release.model, unforeseen(error)
                log.info("audit of model %s dropped: %s", model, error_in_words(error), exc_info=trace)
            finally:
                self._bytes -= _size(job)
                for served in (job.served, job.shadow):
                    if served is not None:
                        served.release_reference()
                self._queue.task_done()
            if pause_s:
                await self._sleep(pause_s)

    async def _judge(self, job: Job) -> Audited:
        assert self._cloud is not None
        request = oip.InferRequest(
            inputs=tuple(oip.TensorValue(*item) for item in job.inputs.items()), binary_outputs=oip.ALL
        )
        answer = await self._cloud.infer(job.served.release.model, job.auditor, request, self._timeout_s)
        # NaN is no answer: an auditor that gives it has failed, and says nothing for or against anybody.
        manifest = job.served.release.manifest
        truth = answers_of(checked(answer, manifest, request), manifest)
        if len(truth) != len(job.answers):
            raise MalformedError(f"the auditor answered {len(truth)} rows for {len(job.answers)}")
        task = tasks.of_manifest(manifest)
        agree = tuple(map(task.agrees, job.answers, truth))
        pairs: tuple[tuple[bool, bool], ...] = ()
        keys: tuple[bytes, ...] = ()
        if job.shadow is not None and job.pairing is not None:
            outputs = await _shadow_outputs(job.shadow, job.inputs)
            check_outputs(job.shadow.release, outputs)
            old = task.answers(outputs)  # by the same task, also where the old release names none
            pairs = tuple(zip(map(task.agrees, old, truth), agree, strict=True))
            keys = input_keys(job.pairing, job.inputs, len(pairs), {t.name for t in manifest.inputs if t.batched})
        return Audited(job, agree, pairs, keys)


def _size(job: Job) -> int:
    return sum(array.nbytes for array in job.inputs.values())


async def _shadow_outputs(shadow: Served, inputs: Arrays) -> Arrays:
    model = await shadow.instances.take(None, shadow.cost_s(inputs))
    try:
        return await asyncio.to_thread(shadow.run, inputs, model)
    finally:
        shadow.instances.give(model)

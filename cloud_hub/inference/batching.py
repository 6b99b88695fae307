"""Dynamic batching: a request that finds the model idle runs at once; those that queue meanwhile run together.

Only requests that the model can take together are joined: the model says so, and all shapes after the first
dimension agree. One that fails in a joined run is asked again alone, with its neighbours, so that it fails alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from cloud_hub.errors import BusyError, DeadlineError
from cloud_hub.inference.sessions import CloudModel, Values
from fleet.protocol.preprocessing import Ready
from fleet.runtimes.models import cut, joined, shapes_of

log = logging.getLogger(__name__)

Answer = dict[str, npt.NDArray[Any]]


@dataclass
class _Waiting:
    """`rows` is 0 for a request that is never joined."""

    inputs: Values
    rows: int
    answer: asyncio.Future[Answer]
    shapes: dict[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.shapes = shapes_of(self.inputs)


class Batcher:
    """One model's queue and its single worker thread.

    `max_queue` requests may wait (BusyError above); a batch holds at most `max_rows` rows, or one
    request that is larger.
    """

    def __init__(self, model: CloudModel, *, max_rows: int = 64, max_queue: int = 256) -> None:
        self._model, self._joins = model, model.joins
        self._max_rows, self._max_queue = max_rows, max_queue
        self._queue: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._task: asyncio.Task[None] | None = None

    async def infer(self, inputs: Values, *, timeout_s: float) -> Answer:
        """The answer to `inputs`, which are as the manifest says.

        Raises BusyError when the queue is full, DeadlineError after `timeout_s`, and what the model raises.
        """
        if len(self._queue) >= self._max_queue:
            raise BusyError(f"{self._max_queue} requests are waiting already", subject="model", hint="try again later")
        loop = asyncio.get_running_loop()
        joins = self._joins and not isinstance(inputs, Ready)  # they would become raw beside raw ones
        waiting = _Waiting(inputs, _rows(inputs) if joins else 0, loop.create_future())
        self._queue.append(waiting)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._drain())
        try:
            return await asyncio.wait_for(waiting.answer, timeout_s)
        except TimeoutError:
            raise DeadlineError(f"no answer within {timeout_s:g} s", subject="model") from None

    def close(self) -> None:
        """Let the thread end; what is queued is still answered."""
        if self._task is None or self._task.done():
            self._thread.shutdown(wait=False)
        else:
            self._task.add_done_callback(lambda _: self._thread.shutdown(wait=False))

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._take():
            answers = await loop.run_in_executor(self._thread, self._run, batch)
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.answer.done():
                    continue
                if isinstance(answer, Exception):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)

    def _run(self, batch: list[_Waiting]) -> list[Answer | Exception]:
        """For each request its answer, or what to raise to its caller."""
        if len(batch) == 1:
            return [self._alone(batch[0])]
        try:
            return list(cut(self._model.run(joined([w.inputs for w in batch])), [w.rows for w in batch]))
        except Exception as error:  # noqa: BLE001 (whose fault it is shows when each is asked alone)
            log.info("%d joined requests failed, each is asked alone: %s", len(batch), error)
        return [self._alone(waiting) for waiting in batch]

    def _alone(self, waiting: _Waiting) -> Answer | Exception:
        try:
            return self._model.run(waiting.inputs)
        except Exception as error:  # noqa: BLE001 (handed to the caller, who raises it)
            return error

    def _take(self) -> list[_Waiting]:
        """The next batch; requests whose caller has gone are dropped."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            first = self._queue[0]
            if first.answer.done():
                self._queue.popleft()
                continue
            if batch and (rows + first.rows > self._max_rows or not _fits(first, batch[0])):
                break
            batch.append(self._queue.popleft())
            rows += first.rows
        return batch


def _rows(inputs: Values) -> int:
    """The rows that all inputs share, else 0: a request that disagrees with itself is asked alone, and refused."""
    rows = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    return rows.pop() if len(rows) == 1 else 0


def _fits(one: _Waiting, other: _Waiting) -> bool:
    return bool(one.rows and other.rows) and one.shapes == other.shapes

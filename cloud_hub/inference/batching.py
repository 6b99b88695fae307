"""Dynamic batching: a request that finds the model idle runs at once; those that queue meanwhile run together."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.errors import BusyError, DeadlineError
from cloud_hub.inference.sessions import CloudModel, Values

Answer = dict[str, npt.NDArray[Any]]


@dataclass
class _Waiting:
    inputs: Values
    rows: int
    answer: asyncio.Future[Answer]


class Batcher:
    """One model's queue and its single worker thread.

    `max_queue` requests may wait (BusyError above); a batch holds at most `max_rows` rows, or one
    request that is larger. Requests are joined only when all shapes after the first dimension agree.
    """

    def __init__(self, model: CloudModel, *, max_rows: int = 64, max_queue: int = 256) -> None:
        self._model = model
        self._max_rows, self._max_queue = max_rows, max_queue
        self._queue: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._task: asyncio.Task[None] | None = None

    async def infer(self, inputs: Values, *, timeout_s: float) -> Answer:
        """The answer to `inputs`, arrays (n, …).

        Raises BusyError when the queue is full, DeadlineError after `timeout_s`.
        """
        if len(self._queue) >= self._max_queue:
            raise BusyError(f"{self._max_queue} requests are waiting already", subject="model", hint="try again later")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(inputs, len(next(iter(inputs.values()))), loop.create_future())
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
            try:
                joined = {k: np.concatenate([w.inputs[k] for w in batch]) for k in batch[0].inputs}
                outputs = await loop.run_in_executor(self._thread, self._model.run, joined)
            except Exception as error:  # noqa: BLE001 (handed to every caller of the batch, who raises it)
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
                continue
            at = 0
            for waiting in batch:
                if not waiting.answer.done():
                    part = slice(at, at + waiting.rows)
                    waiting.answer.set_result({name: value[part] for name, value in outputs.items()})
                at += waiting.rows

    def _take(self) -> list[_Waiting]:
        """The next batch; requests whose caller has gone are dropped."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            first = self._queue[0]
            if first.answer.done():
                self._queue.popleft()
                continue
            if batch and (rows + first.rows > self._max_rows or _shape(first) != _shape(batch[0])):
                break
            batch.append(self._queue.popleft())
            rows += first.rows
        return batch


def _shape(waiting: _Waiting) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in waiting.inputs.items()}

"""Dynamic batching: requests that come together, or queue while the model is at work, run together.

Only requests that the model can take together are joined: the model says so, and all shapes after the first
dimension agree. One that fails in a joined run is asked again alone, with its neighbours, so that it fails alone.

A batch that is known to be quick runs on the event loop: handing it to a thread and back takes longer than it does,
and holds the same lock. What is slow, or was never measured, runs in a thread. There are as many at a time as the
model has lanes: one session on every device, or on the CPU one session that every core may run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from math import inf
from typing import Any

import numpy.typing as npt
from msgspec import Struct

from cloud_hub.errors import BusyError, DeadlineError
from cloud_hub.inference.sessions import CloudModel, Values
from fleet.protocol.preprocessing import Ready
from fleet.runtimes.models import cut, joined, shapes_of
from fleet.runtimes.run_costs import RunCosts
from fleet.serving import Statistics

log = logging.getLogger(__name__)

Answer = dict[str, npt.NDArray[Any]]

QUICK_S = 0.002  # a run that takes no longer is no burden to others on the event loop


class Limits(Struct, frozen=True, kw_only=True):
    """`max_queue` requests may wait; a batch holds at most `max_rows` rows, or one request that is larger."""

    max_rows: int = 64
    max_queue: int = 256


def _here() -> bool:
    return False


def run_costs() -> RunCosts:
    """As the hub judges runs, on the safe side: its event loop answers for all models, and a thread costs a quick run
    little. So what was never run goes there, what is larger may have grown by the square, and a slow run counts at
    once."""
    return RunCosts(unknown_s=inf, growth=4.0, interrupted=0)


class _Waiting:
    """`rows` is 0 for a request that is never joined; `since` is when it came into the queue."""

    __slots__ = ("answer", "gone", "inputs", "rows", "shapes", "since", "size", "timer", "until")

    def __init__(
        self,
        inputs: Values,
        rows: int,
        since: float,
        until: float,
        answer: asyncio.Future[Answer],
        gone: Callable[[], bool],
    ) -> None:
        self.inputs, self.rows, self.answer, self.gone = inputs, rows, answer, gone
        self.since, self.until = since, until
        self.shapes = shapes_of(inputs)
        self.size = sum(array.size for array in inputs.values())
        self.timer: asyncio.TimerHandle | None = None


class Batcher:
    """One model's queue. `lanes` are what can run at the same time, `pool` the threads they run in.

    Args:
        check: what is wrong with an answer, as the error to raise; None for a good one.
        statistics: where runs are counted, in whatever thread they end.
        batched: whether the first dimension counts rows.
        clock: seconds, for the measurement of runs.
    """

    def __init__(
        self,
        lanes: Sequence[CloudModel],
        pool: Executor,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        *,
        check: Callable[[Answer], Exception | None] = lambda answer: None,
        statistics: Statistics | None = None,
        batched: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._free, self._pool, self._limits = list(lanes), pool, limits
        self._lanes, self._joins = len(lanes), all(lane.joins for lane in lanes)
        self._check, self._clock = check, clock
        self._statistics, self._batched = statistics or Statistics(), batched
        self._queue: deque[_Waiting] = deque()
        self._costs = run_costs()
        self._scheduled = False

    @property
    def waiting(self) -> int:
        """Requests that have not begun to run."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Batches in threads now."""
        return self._lanes - len(self._free)

    def submit(self, inputs: Values, until: float, gone: Callable[[], bool] = _here) -> asyncio.Future[Answer]:
        """The answer to `inputs`, which are as the manifest says.

        The future raises DeadlineError at `until` (the event loop's time, seconds), and what the model raises.

        Args:
            gone: whether nobody waits for the answer any more; then it is not run, which counts as too late.

        Raises:
            BusyError: the queue is full. DeadlineError: it is too late already.
        """
        loop = asyncio.get_running_loop()
        if len(self._queue) >= self._limits.max_queue:
            hint = "try again later"
            raise BusyError(f"{self._limits.max_queue} requests are waiting already", subject="model", hint=hint)
        now = loop.time()
        if until <= now:
            raise _late()
        joins = self._joins and not isinstance(inputs, Ready)  # they would become raw beside raw ones
        waiting = _Waiting(inputs, _rows(inputs) if joins else 0, now, until, loop.create_future(), gone)
        self._queue.append(waiting)
        if self._free:
            self._schedule(loop)
        else:
            self._keep_time(loop, (waiting,))
        return waiting.answer

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run what is queued once everything that has come by now is in the queue."""
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._pump, loop)

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        while self._free:
            batch = self._take()
            if not batch:
                break
            now = loop.time()
            self._statistics.queued(sum(now - waiting.since for waiting in batch))
            lane = self._free[-1]
            run = self._run
            if self._costs.of(sum(waiting.size for waiting in batch)) <= QUICK_S:
                answers = self._together(lane, batch)
                if answers is not None:
                    _settle(batch, answers)
                    if self._queue:
                        self._schedule(loop)  # others have their turn first
                    break
                run = self._each  # asking one by one may take many times as long
            self._free.pop()
            self._keep_time(loop, batch)
            task = loop.run_in_executor(self._pool, run, lane, batch)
            task.add_done_callback(functools.partial(self._ran, loop, lane, batch))
        self._keep_time(loop, self._queue)

    def _ran(
        self,
        loop: asyncio.AbstractEventLoop,
        lane: CloudModel,
        batch: list[_Waiting],
        done: asyncio.Future[list[Answer | Exception]],
    ) -> None:
        self._free.append(lane)
        if done.cancelled():
            _settle(batch, [BusyError("the hub is stopping", subject="model") for _ in batch])
            return
        _settle(batch, done.result())
        if self._queue:
            self._schedule(loop)

    def _keep_time(self, loop: asyncio.AbstractEventLoop, waiting: Iterable[_Waiting]) -> None:
        for one in waiting:
            if one.timer is None:
                one.timer = loop.call_at(one.until, self._expire, one)

    def _expire(self, waiting: _Waiting) -> None:
        """Answer that it is too late, and give the place in the queue back; what runs already, runs on."""
        if not waiting.answer.done():
            waiting.answer.set_exception(_late())
        with contextlib.suppress(ValueError):
            self._queue.remove(waiting)

    def _run(self, lane: CloudModel, batch: list[_Waiting]) -> list[Answer | Exception]:
        """For each request its answer, or what to raise to its caller."""
        return self._together(lane, batch) or self._each(lane, batch)

    def _together(self, lane: CloudModel, batch: list[_Waiting]) -> list[Answer | Exception] | None:
        """As `_run`; None where joined requests failed, and each has to be asked alone."""
        if len(batch) == 1:
            return [self._alone(lane, batch[0])]
        try:
            outputs = self._measured(lane, joined([waiting.inputs for waiting in batch]), batch)
            answers = cut(outputs, [waiting.rows for waiting in batch])
        except Exception as error:  # noqa: BLE001 (whose fault it is shows when each is asked alone)
            log.info("%d joined requests failed, each is asked alone: %s", len(batch), error)
            return None
        if self._check(outputs) is None:
            return list(answers)
        return [self._check(answer) or answer for answer in answers]

    def _each(self, lane: CloudModel, batch: list[_Waiting]) -> list[Answer | Exception]:
        return [self._alone(lane, waiting) for waiting in batch]

    def _alone(self, lane: CloudModel, waiting: _Waiting) -> Answer | Exception:
        try:
            answer = self._measured(lane, waiting.inputs, [waiting])
        except Exception as error:  # noqa: BLE001 (handed to the caller, who raises it)
            return error
        return self._check(answer) or answer

    def _measured(self, lane: CloudModel, inputs: Values, batch: list[_Waiting]) -> Answer:
        began = self._clock()
        outputs = lane.run(inputs)
        took = self._clock() - began
        self._costs.learn(sum(array.size for array in inputs.values()), took)
        self._statistics.ran(_rows(inputs) if self._batched else 1, took, len(batch))
        return outputs

    def _take(self) -> list[_Waiting]:
        """The next batch, without the requests whose time is over or whose caller has gone."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            first = self._queue[0]
            if first.gone() and not first.answer.done():
                first.answer.set_exception(_late())
            if first.answer.done():
                self._queue.popleft()
                continue
            if batch and (rows + first.rows > self._limits.max_rows or not _fits(first, batch[0])):
                break
            batch.append(self._queue.popleft())
            rows += first.rows
        return batch


def _settle(batch: list[_Waiting], answers: list[Answer | Exception]) -> None:
    for waiting, answer in zip(batch, answers, strict=True):
        if waiting.timer is not None:
            waiting.timer.cancel()
        if waiting.answer.done():
            continue
        if isinstance(answer, Exception):
            waiting.answer.set_exception(answer)
        else:
            waiting.answer.set_result(answer)


def _late() -> DeadlineError:
    return DeadlineError("no answer within the request's time", subject="model", hint="allow more, or ask for less")


def _rows(inputs: Values) -> int:
    """The rows that all inputs share, else 0: a request that disagrees with itself is asked alone, and refused."""
    rows = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    return rows.pop() if len(rows) == 1 else 0


def _fits(one: _Waiting, other: _Waiting) -> bool:
    return bool(one.rows and other.rows) and one.shapes == other.shapes

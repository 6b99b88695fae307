"""Batching and back-pressure with a model that answers when the test lets it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cloud_hub.errors import BusyError, DeadlineError, NoAnswerError
from cloud_hub.inference.batching import Batcher, Limits


class Gated:
    """Doubles its input once `open` is set; remembers the batch sizes."""

    def __init__(self, *, joins: bool = True) -> None:
        self.joins = joins
        self.open, self.entered = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def run(self, inputs):
        self.batches.append(len(inputs["x"]))
        self.entered.set()
        assert self.open.wait(60)
        return {"y": inputs["x"] * 2}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def x(value: float) -> dict[str, np.ndarray]:
    return {"x": np.full((1, 2), value, np.float32)}


def soon(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def test_what_queues_behind_a_running_request_goes_together(pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        model = Gated()
        batcher = Batcher([model], pool, Limits(max_rows=3))
        answers = [batcher.submit(x(0), soon())]
        await asyncio.to_thread(model.entered.wait, 10)
        answers += [batcher.submit(x(n), soon()) for n in range(1, 5)]
        assert (batcher.waiting, batcher.running) == (4, 1)
        model.open.set()
        found = await asyncio.gather(*answers)
        assert sum(model.batches) == 5 and model.batches[:2] == [1, 3]
        assert [float(a["y"][0, 0]) for a in found] == [0, 2, 4, 6, 8]
        assert (batcher.waiting, batcher.running) == (0, 0)

    asyncio.run(scenario())


def test_a_full_queue_is_refused_and_a_late_answer_is_a_deadline(pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        model = Gated()
        batcher = Batcher([model], pool, Limits(max_queue=1))
        first = batcher.submit(x(0), soon())
        await asyncio.to_thread(model.entered.wait, 10)
        late = batcher.submit(x(1), soon(0.01))
        with pytest.raises(BusyError):
            batcher.submit(x(2), soon())
        with pytest.raises(DeadlineError):
            await late
        model.open.set()
        await first
        with pytest.raises(DeadlineError):
            batcher.submit(x(2), soon(0.0))
        await batcher.submit(x(3), soon())
        assert model.batches == [1, 1]

    asyncio.run(scenario())


def test_as_many_batches_run_at_a_time_as_there_are_lanes(pool: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        models = [Gated(), Gated()]
        batcher = Batcher(models, pool, Limits(max_rows=1))
        answers = [batcher.submit(x(n), soon()) for n in range(3)]
        for model in models:
            await asyncio.to_thread(model.entered.wait, 10)
        assert (batcher.waiting, batcher.running) == (1, 2)
        for model in models:
            model.open.set()
        await asyncio.gather(*answers)
        assert sum(len(model.batches) for model in models) == 3

    asyncio.run(scenario())


class Timed:
    """Takes as long as it is told by a clock of its own; remembers whether it ran on the event loop."""

    joins = True

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0
        self.here: list[bool] = []
        self.batches: list[int] = []

    def run(self, inputs):
        self.now += self.seconds
        self.here.append(threading.current_thread() is threading.main_thread())
        self.batches.append(len(inputs["x"]))
        if len(inputs["x"]) > 1 and (inputs["x"] < 0).any():
            raise RuntimeError("not together")
        if (inputs["x"] < 0).any():
            raise NoAnswerError("a negative one")
        return {"y": inputs["x"] * 2}


@pytest.mark.parametrize(("seconds", "here"), [(0.0001, [False, True, True]), (0.5, [False, False, False])])
def test_only_what_was_measured_to_be_quick_runs_on_the_event_loop(
    seconds: float, here: list[bool], pool: ThreadPoolExecutor
) -> None:
    async def scenario() -> None:
        model = Timed(seconds)
        batcher = Batcher([model], pool, clock=lambda: model.now)
        for n in range(3):
            await batcher.submit(x(n), soon())
        assert model.here == here

    asyncio.run(scenario())


def test_requests_that_come_in_one_turn_run_together_and_a_bad_one_fails_alone_in_a_thread(
    pool: ThreadPoolExecutor,
) -> None:
    async def scenario() -> None:
        model = Timed(0.00001)
        batcher = Batcher([model], pool, clock=lambda: model.now)
        await batcher.submit(x(0), soon())
        found = await asyncio.gather(*(batcher.submit(x(n), soon()) for n in range(8)))
        assert model.batches == [1, 8] and float(found[7]["y"][0, 0]) == 14
        answers = [batcher.submit(x(n), soon()) for n in (1, -1, 2)]
        mixed = await asyncio.gather(*answers, return_exceptions=True)
        assert isinstance(mixed[1], NoAnswerError) and float(mixed[2]["y"][0, 0]) == 4
        assert model.batches[2:] == [3, 1, 1, 1] and model.here[2:] == [True, False, False, False]

    asyncio.run(scenario())


def test_an_answer_that_is_none_spoils_no_other(pool: ThreadPoolExecutor) -> None:
    def check(answer):
        return NoAnswerError("NaN") if np.isnan(answer["y"]).any() else None

    async def scenario() -> None:
        model = Timed(0.00001)
        batcher = Batcher([model], pool, check=check, clock=lambda: model.now)
        values = [0.0, np.nan, 1.0]
        found = await asyncio.gather(*(batcher.submit(x(v), soon()) for v in values), return_exceptions=True)
        assert isinstance(found[1], NoAnswerError) and float(found[2]["y"][0, 0]) == 2
        assert model.batches == [3]

    asyncio.run(scenario())

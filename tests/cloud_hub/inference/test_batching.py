"""Batching and back-pressure with a model that answers when the test lets it."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from cloud_hub.errors import BusyError, DeadlineError
from cloud_hub.inference.batching import Batcher


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


def x(value: float) -> dict[str, np.ndarray]:
    return {"x": np.full((1, 2), value, np.float32)}


def test_what_queues_behind_a_running_request_goes_together() -> None:
    async def scenario() -> None:
        model = Gated()
        batcher = Batcher(model, max_rows=3)
        tasks = [asyncio.create_task(batcher.infer(x(0), timeout_s=10))]
        await asyncio.to_thread(model.entered.wait, 10)
        tasks += [asyncio.create_task(batcher.infer(x(n), timeout_s=10)) for n in range(1, 5)]
        await asyncio.sleep(0)
        model.open.set()
        answers = await asyncio.gather(*tasks)
        assert model.batches == [1, 3, 1]
        assert [float(a["y"][0, 0]) for a in answers] == [0, 2, 4, 6, 8]

    asyncio.run(scenario())


def test_a_full_queue_is_refused_and_a_late_answer_is_a_deadline() -> None:
    async def scenario() -> None:
        model = Gated()
        batcher = Batcher(model, max_queue=1)
        first = asyncio.create_task(batcher.infer(x(0), timeout_s=10))
        await asyncio.to_thread(model.entered.wait, 10)
        late = asyncio.create_task(batcher.infer(x(1), timeout_s=0.01))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await batcher.infer(x(2), timeout_s=10)
        with pytest.raises(DeadlineError):
            await late
        model.open.set()
        await first
        await asyncio.gather(batcher.infer(x(3), timeout_s=10))
        assert model.batches == [1, 1]

    asyncio.run(scenario())

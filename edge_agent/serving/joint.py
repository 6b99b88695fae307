"""An interpreter with room for several rows, on which requests of one row run together.

Keyword spotting costs a LiteRT interpreter 55 µs a row in runs of eight rows and 76 µs alone, and what surrounds a run
costs half as much again. Changing an interpreter's width costs more than it saves, so there is one width, and fewer
requests are filled up where that is still cheaper. A model takes part where the vectors of its self-test get the same
bits together as alone: what an application is told never depends on how much else is asked.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Literal

from edge_agent.ports import Arrays, LoadedModel
from fleet.protocol.preprocessing import Ready
from fleet.runtimes.models import cut, joined, shapes_of

log = logging.getLogger(__name__)

WIDTH = 8  # rows of a run
QUICK_S = 0.005  # a run together holds up what came first for as long as it takes
SPARED_S = 20e-6  # of each request beside its run: checks, scores, counters
TIMES = 5  # runs, of which the fastest says what one costs

State = Literal["unknown", "loading", "ready", "off"]


class Joint:
    """Of one release, for one event loop. It is loaded when `wanted` is called for the first time.

    Args:
        load: makes an interpreter; None where `model` has room for any number of rows.
        model: the release's own.
        vectors: requests of one row each, as `run` takes them, to compare with; read in a thread.
    """

    def __init__(
        self, model: LoadedModel, load: Callable[[], LoadedModel] | None, vectors: Callable[[], Sequence[Arrays]]
    ) -> None:
        self._own, self._load, self._vectors = model, load, vectors
        self._closed = False
        self._shapes: dict[str, tuple[int, ...]] = {}  # of a request that may be joined
        self.least = WIDTH + 1  # as many requests have to come for a run together to pay
        self.model: LoadedModel | None = None
        self.state: State = "unknown" if model.joins else "off"
        self._loading: asyncio.Future[LoadedModel | None] | None = None

    def takes(self, inputs: Arrays) -> bool:
        """Return whether these inputs may run beside others, where these come."""
        if self.state != "ready" or isinstance(inputs, Ready):  # which would become raw beside raw ones
            return False
        return all(inputs[name].shape == shape for name, shape in self._shapes.items())

    def wanted(self, pool: Executor | None = None) -> None:
        """Several requests came at once: load, in a thread of `pool` (by default the event loop's)."""
        if self.state != "unknown":
            return
        self.state = "loading"
        self._loading = asyncio.get_running_loop().run_in_executor(pool, self._made)
        self._loading.add_done_callback(self._loaded)

    def close(self) -> None:
        """Close what was loaded; nobody may use it any more."""
        self._closed = True
        self.state = "off"
        self._end()

    def _made(self) -> LoadedModel | None:
        model = self._own if self._load is None else self._load()
        found = False
        try:
            alike = comparable(self._vectors())
            self._shapes = {name: array.shape for name, array in alike[0].items()} if alike else {}
            found = same_bits(model, alike)
            if found:
                self.least = pays(model, alike[0])
                found = self.least <= WIDTH
        finally:
            if not found and model is not self._own:
                model.close()
        return model if found else None

    def _loaded(self, loading: asyncio.Future[LoadedModel | None]) -> None:
        self._loading = None
        if loading.cancelled() or loading.exception() is not None:
            why = "cancelled" if loading.cancelled() else loading.exception()
            log.warning("requests of a model will not run together: %s", why)
            self.state = "off"
            return
        self.model = loading.result()
        self.state = "off" if self.model is None else "ready"
        if self._closed:
            self.close()

    def _end(self) -> None:
        model, self.model = self.model, None
        if model is not None and model is not self._own:
            model.close()


def comparable(vectors: Sequence[Arrays]) -> list[Arrays]:
    """Those of one row, of the same shapes."""
    rows = [vector for vector in vectors if all(array.ndim and array.shape[0] == 1 for array in vector.values())]
    return [vector for vector in rows if shapes_of(vector) == shapes_of(rows[0])]


def same_bits(model: LoadedModel, alike: Sequence[Arrays]) -> bool:
    """Return whether `WIDTH` different requests of one row get bit for bit the answers together that they get alone.

    False where there are not two to compare; a model that fails on them raises what it raises.
    """
    if len(alike) < 2:
        return False
    alone = [model.run(vector) for vector in alike]
    several = range(0, len(alike), WIDTH - 1)  # neighbours overlap: no vector has the same ones in every run
    for start in several:
        places = list(itertools.islice(itertools.cycle(range(len(alike))), start, start + WIDTH))
        together = cut(model.run(joined([alike[place] for place in places])), [1] * WIDTH)
        for place, answer in zip(places, together, strict=True):
            if any(
                array.dtype != answer[name].dtype or array.tobytes() != answer[name].tobytes()
                for name, array in alone[place].items()
            ):
                return False
    return True


def pays(model: LoadedModel, request: Arrays, clock: Callable[[], float] = time.perf_counter) -> int:
    """Return how many such requests cost as much alone as one run of `WIDTH` rows, more than `WIDTH` where that run
    is too long, or dearer. The model has room for so many rows afterwards."""
    alone = _fastest_s(model, request, clock)
    together = _fastest_s(model, joined([request] * WIDTH), clock)
    return max(2, math.ceil(together / (alone + SPARED_S))) if together <= QUICK_S else WIDTH + 1


def _fastest_s(model: LoadedModel, request: Arrays, clock: Callable[[], float]) -> float:
    took = []
    for _ in range(TIMES):
        started = clock()
        model.run(request)
        took.append(clock() - started)
    return min(took)

"""Copies of requests for a shadow: it is asked those that come while there is room for a copy.

The answering side asks one thing, whether the model is `wanted`. A request that finds no room is counted and left: room
comes free at the shadow's own pace, which does not depend on the requests' content.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from msgspec import Struct

from edge_agent.ports import Arrays
from edge_agent.serving.outcomes import Outcome
from fleet.protocol.channel import RolloutRef

WAITING = 8  # copies, of all models
WAITING_BYTES = 8 << 20  # of their tensors; a request that is larger is not copied


class Copy(Struct, frozen=True):
    """A request with the answer that it got from release `rollout.from_release`; the arrays are nobody else's to
    change."""

    model: str
    variant: str
    rollout: RolloutRef
    inputs: Arrays
    outputs: Arrays

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        arrays = (*self.inputs.values(), *self.outputs.values())
        return sum(sum(map(len, found.flat)) if found.dtype.kind == "O" else found.nbytes for found in arrays)


class Copies:
    """The queue between requests and shadows; for the event loop. `wanted` are the models that are shadowed."""

    def __init__(self) -> None:
        self.wanted: dict[str, RolloutRef] = {}
        self._waiting: deque[Copy] = deque()
        self._bytes = 0
        self._dropped: Counter[str] = Counter()
        self._came = asyncio.Event()

    def offer(self, outcome: Outcome) -> bool:
        """Keep a copy of a request that the device's own model answered, if there is room; never waits."""
        rollout = self.wanted.get(outcome.model)
        if rollout is None or outcome.release != rollout.from_release or not (outcome.inputs and outcome.outputs):
            return False
        if len(self._waiting) >= WAITING:
            self._dropped[outcome.model] += 1
            return False
        copy = Copy(outcome.model, outcome.variant, rollout, outcome.inputs, outcome.outputs)
        if self._bytes + copy.size > WAITING_BYTES:
            self._dropped[outcome.model] += 1
            return False
        self._waiting.append(copy)
        self._bytes += copy.size
        self._came.set()
        return True

    def take(self) -> Copy | None:
        """The oldest copy whose model is still shadowed for the same attempt."""
        while self._waiting:
            copy = self._waiting.popleft()
            self._bytes -= copy.size
            if self.wanted.get(copy.model) == copy.rollout:
                return copy
        return None

    async def come(self) -> None:
        """Wait for a copy."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()

    def dropped(self, model: str) -> int:
        """Return how many requests found no room since this was asked last."""
        return self._dropped.pop(model, 0)

    def forget(self, model: str) -> None:
        """The model is not shadowed any more."""
        self.wanted.pop(model, None)
        self._dropped.pop(model, None)

"""Requests that come in one turn of the event loop, so that those of one release can run together.

Nobody waits for what is not here: a request waits for the end of its turn, and only where this turn, or the last one
that had any, has had several. One client's request is answered at once, as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from edge_agent.serving.joint import WIDTH
from edge_agent.serving.pending_request import PendingRequest
from edge_agent.serving.runs import Ran, ended, run_together
from edge_agent.serving.slots import Arrays, Served
from fleet.protocol.oip import InferResponse

Answer = InferResponse | Awaitable[InferResponse]
Found = Answer | Exception


class InTurn:
    """An answer that comes at the end of the turn, by `hear`, which its caller sets before."""

    __slots__ = ("hear",)
    hear: Callable[[Found], None]

    async def wait(self) -> InferResponse:
        """The answer, for whoever waits for it in any case; raises as the engine does."""
        future = asyncio.get_running_loop().create_future()
        self.hear = lambda found: None if future.done() else future.set_result(found)
        found: Found = await future
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, InferResponse) else await found


class _Waits(NamedTuple):
    asked: PendingRequest
    inputs: Arrays
    answer: InTurn


class Turns:
    """For one event loop.

    Args:
        alone: runs a request by itself, and answers it.
        after: answers a request that has run.
        now: the event loop's clock.
    """

    def __init__(
        self,
        alone: Callable[[Served, PendingRequest, Arrays], Answer],
        after: Callable[[Served, PendingRequest, Arrays, Ran], Answer],
        now: Callable[[], float],
    ) -> None:
        self._alone, self._after, self._now = alone, after, now
        self._seen = self._before = 0
        self._waiting: dict[Served, list[_Waits]] = {}

    def several(self) -> bool:
        """Count a request of this turn; whether there are others, or were in the last turn that had any."""
        seen = self._seen = self._seen + 1
        if seen == 1:
            asyncio.get_running_loop().call_soon(self._end)
        return seen > 1 or self._before > 1

    def add(self, served: Served, asked: PendingRequest, inputs: Arrays) -> InTurn:
        """Let a request that is counted wait for the end of the turn; its release stays loaded until then."""
        waiting = self._waiting.get(served)
        if waiting is None:
            served.references += 1
            waiting = self._waiting[served] = []
        answer = InTurn()
        waiting.append(_Waits(asked, inputs, answer))
        return answer

    def _end(self) -> None:
        self._before, self._seen = self._seen, 0
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        for served, several in waiting.items():
            try:
                timely: list[_Waits] = []
                late: list[_Waits] = []
                for waits in several:
                    (late if self._late(waits) else timely).append(waits)
                for start in range(0, len(timely), WIDTH):
                    self._answer(served, timely[start : start + WIDTH])
                for waits in late:  # which is told, and counted, as for one that comes alone
                    waits.answer.hear(self._found(served, waits, None))
            finally:
                served.release_reference()

    def _late(self, waits: _Waits) -> bool:
        return waits.asked.until is not None and self._now() >= waits.asked.until

    def _answer(self, served: Served, group: list[_Waits]) -> None:
        """Together where that pays, else each alone."""
        rans = run_together(served, [waits.inputs for waits in group])
        for place, waits in enumerate(group):
            waits.answer.hear(self._found(served, waits, rans[place] if rans is not None else None))

    def _found(self, served: Served, waits: _Waits, ran: Ran | None) -> Found:
        """Finish a request that waited; with `ran` None it runs alone."""
        asked = waits.asked
        try:
            if ran is None:
                return self._alone(served, asked, waits.inputs)
            ended(served, ran)
            return self._after(served, asked, waits.inputs, ran)
        except Exception as error:  # noqa: BLE001 (whatever it is, its caller gets it, and nobody else's request)
            return error

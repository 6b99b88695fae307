"""The outcomes of requests, and the port of whoever records them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from edge_agent.ports import Arrays, InstalledRelease
from edge_agent.serving.router import RoutingResult
from edge_agent.serving.scores import Scores
from edge_agent.serving.slots import Served
from fleet.protocol.errors import RefusalError
from fleet.tasks import Task


class Outcome(Struct, frozen=True, kw_only=True):
    """The outcome of one request, for whoever records it. `release` 0: no local model.

    `task` says what the answers mean; None without a local model. `cloud_answers` are the cloud's, row by row.
    `ready`: the application sent what the release's steps make, so the raw inputs are not known, and `inputs` is empty.
    `refused` is the word for what no model need take, where the local model failed on it and nobody else answered.
    """

    model: str
    release: int
    variant: str
    verdict: RoutingResult
    latency_s: float
    inputs: Arrays
    outputs: Arrays
    scores: Scores
    local_failed: bool = False
    refused: str = ""
    task: Task[Any] | None = None
    cloud_answers: tuple[Any, ...] = ()
    ready: bool = False


class Refused(Struct, frozen=True, kw_only=True):
    """A request that was refused; `word` is one of `errors.REFUSALS`. `release` 0: no local model.

    `newly`: the release before this one would have taken it. `tensor` and `place`: see `RefusalError`.
    """

    model: str
    release: int
    variant: str
    word: str
    newly: bool
    latency_s: float
    tensor: str = ""
    place: int = -1


def refused_for(release: InstalledRelease, model: str, why: RefusalError, *, newly: bool, latency_s: float) -> Refused:
    """Return the outcome of a request that `release` does not take."""
    return Refused(
        model=model,
        release=release.number,
        variant=release.variant.name,
        word=why.word,
        newly=newly,
        latency_s=latency_s,
        tensor=why.tensor,
        place=why.place,
    )


class Observer(Protocol):
    """Hears of every request; must not block and must not raise."""

    def finished(self, outcome: Outcome) -> None:
        """A request ended, well or badly."""

    def refused(self, refused: Refused) -> None:
        """A request was refused: it does not decode, or the release does not take it."""

    def audit(self, served: Served, inputs: Arrays, answers: tuple[Any, ...]) -> None:
        """A request was drawn for audit before its confidence was known."""


class Recorder(Observer, Protocol):
    """An observer that takes several at a time."""

    def finished_together(self, outcomes: Sequence[Outcome]) -> None:
        """Requests ended in one turn of the event loop, in this order."""


SEVERAL = 32  # finished requests that are told together
HELD = 256 << 10  # bytes of their tensors; more do not wait
DELAY_S = 0.005


class Afterwards:
    """Tells another observer of finished requests when their answers are out, several at a time, soon after.

    What is recorded of a request takes as long as the rest of it does beside the model; nobody has to wait for that.
    For several at once it takes a third. Whoever needs to know of all requests so far calls `tell` before.
    """

    def __init__(self, observer: Recorder) -> None:
        self._observer = observer
        self._waiting: list[Outcome] = []
        self._held = 0
        self._timed = False

    def finished(self, outcome: Outcome) -> None:
        """See `Observer`."""
        waiting = self._waiting
        waiting.append(outcome)
        held = self._held
        for arrays in (outcome.inputs, outcome.outputs):
            for array in arrays.values():
                held += array.nbytes if array.dtype.kind != "O" else HELD  # of text, nobody has counted the bytes
        self._held = held
        if held >= HELD or len(waiting) == SEVERAL:
            asyncio.get_running_loop().call_soon(self.tell)
        elif not self._timed:
            self._timed = True
            asyncio.get_running_loop().call_later(DELAY_S, self._due)

    def refused(self, refused: Refused) -> None:
        """See `Observer`."""
        self._observer.refused(refused)

    def audit(self, served: Served, inputs: Arrays, answers: tuple[Any, ...]) -> None:
        """See `Observer`."""
        self._observer.audit(served, inputs, answers)

    def tell(self) -> None:
        """Tell of those that wait, now."""
        waiting, self._waiting, self._held = self._waiting, [], 0
        if waiting:
            self._observer.finished_together(waiting)

    def _due(self) -> None:
        self._timed = False
        self.tell()

"""The cloud as the engine sees it: a bounded number of calls, a bounded queue before them, a breaker for each model.

Three things that look alike are kept apart. A call that fails, or is not answered within the channel's own deadline,
is the cloud's failure, and the breaker counts it. A cloud that answers "too busy, come back in a second" is left alone
that long, and is not dead. A request that finds no place in time, or whose caller had less patience than the channel,
is no failure of the cloud at all.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from edge_agent.errors import LateError, UnreachableError
from edge_agent.serving import breaker as breakers
from edge_agent.serving.breaker import Breaker
from edge_agent.serving.call_budget import CallBudget
from edge_agent.serving.cloud import CALLS, Cloud, CloudError
from fleet.protocol import oip
from fleet.protocol.channel import Remote, Routing

WAITING, WAITING_BYTES = 1024, 64 << 20  # requests that wait for a place, and their inputs, which they hold
LATEST = 32  # calls that the fastest is taken of
MARGIN_S = 0.5  # the socket gives up this much after the call counts as late


class NotAskedError(UnreachableError):
    """The cloud was not asked: it is left alone for now (`breaker-open`), there was no place (`cloud-busy`), or the
    channel's budget of calls is spent (`cloud-budget`)."""

    def __init__(self, word: breakers.Word, subject: str) -> None:
        super().__init__(f"the cloud was not asked: {word}", subject=subject, reason=word)


class Question(NamedTuple):
    """One call: a model, its version at the cloud (None: the current one), and the request to send.

    `check` gives the answer as it may go out, or raises CloudError: then the call failed. `gone` says
    whether nobody waits any more. `routing.remote` says where the call goes, if not to the hub.
    """

    model: str
    version: int | None
    request: oip.InferRequest
    check: Callable[[oip.InferResponse], oip.InferResponse] = lambda answer: answer
    gone: Callable[[], bool] = lambda: False


class _Call:
    """One call under way; what it says about the cloud counts once."""

    def __init__(self, began: float, probe: bool) -> None:
        self.began, self.probe, self.counted = began, probe, False


class Endpoint:
    """For one event loop. `now` is monotonic, seconds."""

    def __init__(
        self,
        cloud: Cloud,
        remotes: Callable[[Remote], Cloud] | None = None,
        *,
        calls: int = CALLS,
        waiting: int = WAITING,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud, self._remotes, self._now = cloud, remotes, now
        self._budget = CallBudget()
        self._calls, self._limit = calls, waiting
        self._places = asyncio.Semaphore(calls)
        self._waiting = self._waiting_bytes = 0
        self._breakers: dict[str, Breaker] = {}
        self._took: deque[float] = deque(maxlen=LATEST)
        self._running: set[asyncio.Task[oip.InferResponse]] = set()

    def breaker(self, model: str) -> Breaker:
        """Return the breaker of a model's calls; one model that fails at the cloud keeps no other from it."""
        return self._breakers.get(model, Breaker())

    def blocked(self, model: str, routing: Routing) -> breakers.Word:
        """Return why the cloud is not to be asked now; empty when it may be."""
        word = breakers.blocked(self.breaker(model), self._now(), routing.breaker_reset_s)
        return word or ("" if self._budget.allows(model, routing, self._now()) else "cloud-budget")

    def wait_s(self, model: str, routing: Routing) -> float:
        """Seconds after which asking may help again."""
        return breakers.wait_s(self.breaker(model), self._now(), routing.breaker_reset_s)

    async def ask(self, question: Question, routing: Routing, left_s: float) -> oip.InferResponse:
        """Ask the cloud, and return its answer.

        Args:
            question: the model, its release and the request.
            routing: the channel's.
            left_s: seconds, the time in the queue included.

        Raises:
            NotAskedError: no place in that time, or the breaker opened meanwhile.
            LateError: no answer in that time, or nobody waits for one.
            UnreachableError, CloudError: the call failed; other errors of the cloud's adapter come through as well.
        """
        until = self._now() + left_s
        await self._take_place(question, left_s)
        try:
            word = self.blocked(question.model, routing)  # it may have changed while this request waited
            if not word and self._waiting and self._hopeless(until - self._now(), ahead=0):
                word = "cloud-busy"  # others can make better use of the place
            if word:
                raise NotAskedError(word, question.model)
            if question.gone():
                raise LateError("the caller has gone while others had the cloud", subject=question.model)
            call = self._begin(question.model)
            self._budget.called(question.model, routing, self._now())
        except BaseException:
            self._places.release()
            raise
        # The call goes on without its caller: what it says about the cloud, and its place, end with it.
        task = asyncio.get_running_loop().create_task(self._run(question, routing, call))
        self._running.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task}, timeout=until - self._now())
        if not task.done():
            raise LateError(f"the cloud did not answer in {left_s:.3f} s", subject=question.model)
        return task.result()

    async def _take_place(self, question: Question, left_s: float) -> None:
        """First come, first served; at once `cloud-busy` where no place can come free in time, or the queue is full."""
        size, model = _size(question.request.inputs), question.model
        full = self._waiting >= self._limit or (self._waiting and self._waiting_bytes + size > WAITING_BYTES)
        if self._places.locked() and (full or self._hopeless(left_s, ahead=self._waiting)):
            raise NotAskedError("cloud-busy", model)
        self._waiting += 1
        self._waiting_bytes += size
        try:
            async with asyncio.timeout(left_s):
                await self._places.acquire()
        except TimeoutError as error:
            raise NotAskedError("cloud-busy", model) from error
        finally:
            self._waiting -= 1
            self._waiting_bytes -= size

    def _hopeless(self, left_s: float, *, ahead: int) -> bool:
        """Return whether `left_s` is too short even if all calls from here on were as fast as the fastest of late."""
        fastest = min(self._took, default=0.0)
        return left_s < fastest * (1 + ahead / self._calls)

    def _begin(self, model: str) -> _Call:
        self._breakers[model], probe = breakers.started(self.breaker(model))
        return _Call(self._now(), probe)

    async def _run(self, question: Question, routing: Routing, call: _Call) -> oip.InferResponse:
        fair_s = routing.deadline_ms / 1000
        model, loop = question.model, asyncio.get_running_loop()
        timer = loop.call_later(fair_s, self._failed, model, routing, call)
        try:
            said = await self._whom(routing).infer(model, question.version, question.request, fair_s + MARGIN_S)
            self._budget.spent(model, routing, _size(question.request.inputs) + _size(said.outputs), self._now())
            answer = question.check(said)
        except CloudError as error:
            if error.retry_after_s is not None:
                self._answered(model, call, busy_until=self._now() + error.retry_after_s)
            elif 400 <= error.status < 500:
                self._answered(model, call)  # it is there; it refuses this request
            else:
                self._failed(model, routing, call)
            raise
        except BaseException:
            self._failed(model, routing, call)
            raise
        finally:
            timer.cancel()
            self._places.release()
        self._took.append(self._now() - call.began)
        self._answered(model, call)
        return answer

    def _whom(self, routing: Routing) -> Cloud:
        if routing.remote is None:
            return self._cloud
        if self._remotes is None:
            raise CloudError("this device asks nobody but its hub", status=501)
        return self._remotes(routing.remote)

    def _answered(self, model: str, call: _Call, busy_until: float = 0.0) -> None:
        if not call.counted:
            call.counted = True
            self._breakers[model] = breakers.answered(self.breaker(model), busy_until)

    def _failed(self, model: str, routing: Routing, call: _Call) -> None:
        if not call.counted:
            call.counted, limit = True, routing.breaker_failures
            self._breakers[model] = breakers.failed(self.breaker(model), self._now(), limit, probe=call.probe)

    def _ended(self, task: asyncio.Task[oip.InferResponse]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # a late failure has nobody left to hear it


def _size(values: Iterable[oip.TensorValue]) -> int:
    return sum(value.array.nbytes for value in values)


def word_of(error: Exception) -> str:
    """Return why there is no answer of the cloud's, in the word of answers and metrics."""
    if isinstance(error, NotAskedError):
        return error.reason
    if isinstance(error, LateError):
        return "deadline"
    if isinstance(error, UnreachableError):
        return "unreachable"
    if isinstance(error, CloudError):
        return f"cloud-{error.status}"
    return "cloud-failed"

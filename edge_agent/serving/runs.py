"""One run of a release's model, on the event loop or in a thread, and what became of it."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from edge_agent.errors import InferenceError, LateError
from edge_agent.host.watchdog import Runs
from edge_agent.ports import LoadedModel
from edge_agent.serving.failures import error_in_words, unforeseen
from edge_agent.serving.joint import WIDTH
from edge_agent.serving.scores import Scores, score
from edge_agent.serving.slots import Arrays, Served
from fleet.protocol.asking import specs_of
from fleet.protocol.errors import MalformedError, RefusalError
from fleet.protocol.task import CLASSIFICATION
from fleet.runtimes import InputError
from fleet.runtimes.models import cut, joined, unfair

log = logging.getLogger(__name__)

THREADS = 32  # runs at the same time, of all models; each has its own bound (`instances.most_interpreters`)


class Ran(NamedTuple):
    """Outputs and scores, or why there are none; a RefusalError when that is the caller's doing."""

    outputs: Arrays
    scores: Scores
    failure: Exception | None = None

    @property
    def blamed(self) -> bool:
        """The model failed, on what it should have answered."""
        return self.failure is not None and not isinstance(self.failure, RefusalError)


def run_and_score(served: Served, model: LoadedModel, inputs: Arrays) -> Ran:
    """Run and score, in any thread. The listener for its end tells it to `ended`, on the event loop."""
    try:
        outputs = served.run(inputs, model)
        return Ran(outputs, score(served.release, outputs, served.task, served.calibration))
    except InputError as error:
        return Ran({}, Scores(), RefusalError(str(error), word="value", hint=error.hint))
    except Exception as error:  # whatever a runtime raises is a failed run
        reason = unfair(inputs, specs_of(inputs, served.release.manifest))
        if reason:
            return Ran({}, Scores(), RefusalError(reason, word="batch"))
        name, number = served.release.model, served.release.number
        log.warning("model %s release %d failed: %s", name, number, error_in_words(error), exc_info=unforeseen(error))
        return Ran({}, Scores(), InferenceError(str(error)) if isinstance(error, MalformedError) else error)


def run_together(served: Served, requests: Sequence[Arrays]) -> list[Ran] | None:
    """Run at most `joint.WIDTH` requests that `Joint.takes` as one, on the event loop; None where each has to be asked
    alone.

    That is where it would cost less, or where they fail together: whose fault it is only a run alone can tell.
    """
    model, count = served.joint.model, len(requests)
    if model is None or count < served.joint.least:
        return None
    try:
        outputs = served.run(joined([*requests, *[requests[-1]] * (WIDTH - count)]), model, requests=count)
        answers = cut(outputs, [1] * WIDTH)[:count]
        return [Ran(*pair) for pair in zip(answers, score_each(served, outputs, answers), strict=True)]
    except Exception as error:  # whatever a runtime raises, as in `run_and_score`
        words = error_in_words(error)
        log.info(
            "model %s: %d requests failed together: %s",
            served.release.model,
            len(requests),
            words,
            exc_info=unforeseen(error),
        )
        return None


def score_each(served: Served, outputs: Arrays, answers: Sequence[Arrays]) -> list[Scores]:
    """Score the first rows of `outputs`, which `answers` have alone; raises as `score`."""
    spec = served.release.manifest.named_task
    if spec is None or spec.name != CLASSIFICATION:
        return [score(served.release, answer, served.task, served.calibration) for answer in answers]
    found = score(served.release, outputs, served.task, served.calibration)
    rows = [slice(row, row + 1) for row in range(len(answers))]
    return [Scores(found.confidence[row], found.classes[row], found.answers[row]) for row in rows]


def ended(served: Served, ran: Ran) -> None:
    """Count a run for probation, when its end is known: one that is under way is no good answer yet."""
    if ran.failure is None:
        served.count(failed=False)
    elif ran.blamed:
        served.count(failed=True)


class Threads:
    """Runs that may take too long for the event loop."""

    def __init__(self) -> None:
        self.runs = Runs()
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="model")

    async def run(self, served: Served, inputs: Arrays, until: float | None, gone: Callable[[], bool]) -> Ran:
        """Run in a thread, with an interpreter that is free before `until` (the event loop's clock; None: whenever).

        A run that is late goes on by itself: its interpreter, its place and its count end with it.

        Args:
            gone: whether nobody waits for the answer any more; what has not begun by then does not.

        Raises:
            InferenceError: too many wait for the model. LateError: no answer before `until`, or for nobody.
        """
        loop = asyncio.get_running_loop()
        if until is not None and loop.time() >= until:
            raise LateError("the deadline passed before the request was here")
        waits = loop.time()
        model = await served.instances.take(until, served.cost_s(inputs), self.pool)
        served.statistics.queued(loop.time() - waits)
        if gone():
            served.instances.give(model)
            raise LateError("the caller has gone while others had the model")
        served.references += 1
        self.runs.begin()
        call = loop.run_in_executor(self.pool, run_and_score, served, model, inputs)
        call.add_done_callback(functools.partial(self._ended, served, model))
        await asyncio.wait({call}, timeout=None if until is None else until - loop.time())
        if not call.done():
            raise LateError("the deadline passed while the model ran")
        return call.result()

    def _ended(self, served: Served, model: LoadedModel, call: asyncio.Future[Ran]) -> None:
        self.runs.end()
        served.instances.give(model)
        if not call.cancelled():
            ended(served, call.result())
        served.release_reference()

"""One request from inputs to answer: local model, decision, cloud, record.

What can be answered at once is: `answer` returns it without having yielded, and an awaitable only for a run that may
take longer than `run_times.SLOW_S` and for a call to the cloud.

A caller's deadline (`timeout`, `timeout_ms`, `deadline_ms`) counts from the request's first byte and binds whatever
comes before there is an answer; a local answer that exists goes out, degraded where the cloud was to be asked. The
channel's `deadline_ms` bounds the cloud's part only: a model that is slower still answers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from edge_agent.errors import InferenceError, LateError, NotFoundError
from edge_agent.serving.answers import answer_parameters, answers_of
from edge_agent.serving.cloud_part import CloudPart
from edge_agent.serving.endpoint import Endpoint
from edge_agent.serving.failures import error_in_words
from edge_agent.serving.forwarding import somebody
from edge_agent.serving.outcomes import Observer, Outcome, Refused, refused_for
from edge_agent.serving.pending_request import PendingRequest
from edge_agent.serving.policy import Policies
from edge_agent.serving.router import EDGE, Local, Route, RoutingResult, reason_for, settle_route, threshold
from edge_agent.serving.runs import Ran, Threads, ended, run_and_score
from edge_agent.serving.scores import Scores
from edge_agent.serving.slots import Arrays, Served, Slots
from edge_agent.serving.turns import Answer, InTurn, Turns
from fleet.protocol import oip
from fleet.protocol.asking import inputs_of, labels_of
from fleet.protocol.channel import MILLION
from fleet.protocol.deadlines import deadline_s
from fleet.protocol.errors import MalformedError, ProtocolError, RefusalError, refusal_word
from fleet.protocol.interface import takes
from fleet.protocol.preprocessing import Ready
from fleet.runtimes.cost import BODY_LIMIT, JSON_LIMIT

log = logging.getLogger(__name__)


def _here() -> bool:
    return False


class Engine:
    """Answers requests with the slots' releases and the cloud. `now` is the event loop's clock."""

    def __init__(
        self,
        slots: Slots,
        policies: Policies,
        cloud: Endpoint | None,
        observer: Observer,
        *,
        rng: Callable[[], float] = random.random,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = slots
        self._policies = policies
        self.cloud = CloudPart(cloud, now)
        self._observer = observer
        self._rng = rng
        self._now = now
        self._threads = Threads()
        self.runs = self._threads.runs
        self._turns = Turns(self._alone, self._after, now)

    async def infer(
        self,
        model: str,
        version: str,
        request: oip.InferRequest,
        began: float | None = None,
        gone: Callable[[], bool] = _here,
    ) -> oip.InferResponse:
        """Return the result of `answer`, for a caller who waits for it in any case."""
        found = self.answer(model, version, request, began, gone)
        if isinstance(found, InTurn):
            return await found.wait()
        return found if isinstance(found, oip.InferResponse) else await found

    def answer(
        self,
        model: str,
        version: str,
        request: oip.InferRequest,
        began: float | None = None,
        gone: Callable[[], bool] = _here,
    ) -> Answer | InTurn:
        """Answer a request, at once where that takes no time; at the end of the turn where others may come with it.

        Parameters of a request: `timeout` (microseconds), `timeout_ms` and `deadline_ms` say how long its caller
        waits, `route: "edge"` keeps this request on the device, `route: "cloud"` asks the cloud whatever the
        confidence, `observe: false` keeps it out of windows, samples and audits, `ready: DIGEST` says that the inputs
        are what the steps of this digest make (`fleet.protocol.asking`).

        Args:
            version: of the active release or the previous one, if it is held; empty for the active one.
            began: when its first byte came, by the event loop's clock; now by default.
            gone: whether its caller waits no more; then it is not run, nor is the cloud asked, when its turn comes.

        Raises:
            NotFoundError: no such model or version here.
            RefusalError: inputs that are not what the model takes, outputs that it does not have, or a batch that it
                failed on and need not take. MalformedError: a deadline that is none.
            LateError: the caller's deadline came first, or the caller has gone.
            InferenceError: nobody could answer, or too many wait; the message says why.
        """
        asked = self._ask(model, request, self._now() if began is None else began, gone)
        served = self.slots.find(model, version)
        if served is None:
            self._check_known(model, version)
            return self._without_local(asked)
        manifest = served.release.manifest
        try:
            inputs = inputs_of(request, manifest, served.pipeline)
        except RefusalError as error:
            self._refused(served, asked, error, newly=takes(served.former, request))
            raise
        if self.cloud.speculates(served, asked):
            served.references += 1
            return self._at_once(served, asked, inputs)
        if self._turns.several() and self._joins(served, inputs):
            return self._turns.add(served, asked, inputs)
        return self._alone(served, asked, inputs)

    def _joins(self, served: Served, inputs: Arrays) -> bool:
        """Return whether a request should run beside others of its turn."""
        if served.joint.takes(inputs):
            return True
        served.joint.wanted(self._threads.pool)
        return False

    def _alone(self, served: Served, asked: PendingRequest, inputs: Arrays) -> Answer:
        idle = None if served.slow(inputs) else served.instances.idle()
        if idle is None or (asked.until is not None and self._now() >= asked.until):
            served.references += 1
            return self._elsewhere(served, asked, inputs)
        ran = run_and_score(served, idle, inputs)
        ended(served, ran)
        return self._after(served, asked, inputs, ran)

    def body_limit(self, model: str) -> int:
        """The most bytes that the body of a request to this model may have."""
        slot = self.slots.slot(model)
        if slot is not None and slot.active is not None:
            return slot.active.body_limit
        return BODY_LIMIT if self._policies.knows(model) or self.slots.expects(model) else JSON_LIMIT

    def may_ask(self) -> bool:
        """Return whether a request to what is served now may go to the cloud."""
        return any(somebody(self.slots.find(name), self._policies.entry(name)) for name in self.slots.names())

    def known(self) -> list[str]:
        """The models that are served here, or are to be, or that the channel names."""
        return [*self.slots.expected(), *self._policies.models()]

    def refuse(self, model: str, error: ProtocolError) -> None:
        """Count a request to a model that is served here, or is to be, whose body could not be read."""
        self._refuse_unread(model, refusal_word(error), str(error))

    def _ask(self, model: str, request: oip.InferRequest, started: float, gone: Callable[[], bool]) -> PendingRequest:
        entry, limit_s = self._policies.entry(model), None
        if request.parameters:
            try:
                limit_s = deadline_s(request.parameters)
            except MalformedError as error:
                self.refuse(model, error)
                raise
        drawn = entry.audit.auditor is not None and _observed(request) and self._rng() * MILLION < entry.audit.share_ppm
        until = None if limit_s is None else started + limit_s
        return PendingRequest(model, request, entry, started, until, drawn, gone)

    def _refuse_unread(self, model: str, word: str, why: str) -> None:
        served = self.slots.find(model)
        if served is not None:
            served.refuse(why, newly=False)
            served.statistics.failed(0.0)
        elif not (self._policies.knows(model) or self.slots.expects(model)):
            return  # any name at all may come here
        number, variant = (served.release.number, served.release.variant.name) if served is not None else (0, "")
        refused = Refused(model=model, release=number, variant=variant, word=word, newly=False, latency_s=0.0)
        self._observer.refused(refused)

    def _refused(self, served: Served, asked: PendingRequest, why: RefusalError, *, newly: bool) -> None:
        served.refuse(str(why), newly=newly)
        took = self._now() - asked.started
        served.statistics.failed(took)
        if _observed(asked.request):
            self._observer.refused(refused_for(served.release, asked.model, why, newly=newly, latency_s=took))

    def _check_known(self, model: str, version: str) -> None:
        if version:
            self._refuse_unread(model, "version", f"no version {version!r}")
            raise NotFoundError(f"model {model!r} has no version {version!r} here", subject=model)
        if not (self._policies.knows(model) or self.slots.expects(model)):
            raise NotFoundError(f"model {model!r} is not served here", subject=model, hint="see GET /status")

    async def _elsewhere(self, served: Served, asked: PendingRequest, inputs: Arrays) -> oip.InferResponse:
        """With a run in a thread. The caller has taken a reference."""
        try:
            try:
                ran = await self._threads.run(served, inputs, asked.until, asked.gone)
            except (InferenceError, LateError) as error:  # says nothing about the model
                self._refused(served, asked, RefusalError(str(error), word="other"), newly=False)
                raise
            found = self._after(served, asked, inputs, ran)
            return found if isinstance(found, oip.InferResponse) else await found
        finally:
            served.release_reference()

    async def _at_once(self, served: Served, asked: PendingRequest, inputs: Arrays) -> oip.InferResponse:
        """Local run and call to the cloud beside each other; a call that turns out not to be needed is left alone."""
        early = asyncio.get_running_loop().create_task(self.cloud.ask(served, asked))
        await asyncio.sleep(0)  # the call goes out before a short run takes the event loop
        try:
            return await self._elsewhere(served, asked._replace(early=early), inputs)
        finally:
            early.cancel()

    def _after(self, served: Served, asked: PendingRequest, inputs: Arrays, ran: Ran) -> Answer:
        """Answer after a run, perhaps by the cloud."""
        if asked.drawn and ran.scores.answers and not isinstance(inputs, Ready):  # another release cannot be asked it
            self._observer.audit(served, inputs, ran.scores.answers)
        sure = ran.scores.confidence
        local = Local(
            ok=ran.failure is None,
            confidence=min(sure) if sure else None,
            wants_cloud=asked.request.parameters.get("route") == "cloud",
        )
        limit = threshold(asked.entry.routing, served.release.variant.deferral)
        if not reason_for(local, limit, asked.entry.routing.when):
            return self._finish(served, asked, inputs, ran, EDGE)
        plan = self.cloud.plan(served, asked, local, limit)
        if not plan.ask:
            return self._finish(served, asked, inputs, ran, settle_route(plan, local_ok=local.ok, cloud_error=None))
        served.references += 1
        return self._with_cloud(served, asked, inputs, ran, plan)

    async def _with_cloud(
        self, served: Served, asked: PendingRequest, inputs: Arrays, ran: Ran, plan: Route
    ) -> oip.InferResponse:
        """The caller has taken a reference."""
        try:
            answer, error = await (asked.early or self.cloud.ask(served, asked))
            verdict = settle_route(plan, local_ok=ran.failure is None, cloud_error=error)
            return self._finish(served, asked, inputs, ran, verdict, answer)
        finally:
            served.release_reference()

    def _finish(
        self,
        served: Served,
        asked: PendingRequest,
        inputs: Arrays,
        ran: Ran,
        verdict: RoutingResult,
        answer: oip.InferResponse | None = None,
    ) -> oip.InferResponse:
        release, took = served.release, self._now() - asked.started
        ready = isinstance(inputs, Ready)
        if _observed(asked.request):
            self._observer.finished(
                Outcome(
                    model=asked.model,
                    release=release.number,
                    variant=release.variant.name,
                    verdict=verdict,
                    latency_s=took,
                    inputs={} if ready else inputs,
                    outputs=ran.outputs,
                    scores=ran.scores,
                    local_failed=ran.blamed,
                    refused=ran.failure.word if isinstance(ran.failure, RefusalError) else "",
                    task=served.task,
                    cloud_answers=answers_of(answer, release.manifest) if answer is not None else (),
                    ready=ready,
                )
            )
        if verdict.served_by == "nobody" and ran.failure is not None:
            served.statistics.failed(took)
            raise self._nobody(served, asked, verdict, ran.failure)
        served.statistics.succeeded(served.rows(inputs), took)
        number, sure = str(release.number), ran.scores.confidence
        return oip.InferResponse(
            model_name=asked.model,
            model_version=answer.model_version if answer is not None else number,
            id=asked.request.id,
            parameters=answer_parameters(verdict, release, min(sure) if sure else None, took, answer),
            outputs=answer.outputs
            if answer is not None
            else tuple([oip.TensorValue(*item) for item in ran.outputs.items()]),
            labels=labels_of(release.manifest, asked.request) if asked.request.classification else {},
        )

    def _nobody(self, served: Served, asked: PendingRequest, verdict: RoutingResult, failure: Exception) -> Exception:
        if isinstance(failure, RefusalError):
            served.refuse(str(failure), newly=False)
            return failure
        error = InferenceError(
            f"model {asked.model!r} failed: {error_in_words(failure)}; cloud: {verdict.fallback_reason}",
            retry_after_s=self.cloud.retry_after_s(asked, verdict),
            busy=verdict.fallback_reason == "cloud-busy",
        )
        error.__cause__ = failure
        return error

    async def _without_local(self, asked: PendingRequest) -> oip.InferResponse:
        plan = self.cloud.plan(None, asked, None, None)
        answer, error = await self.cloud.ask(None, asked) if plan.ask else (None, None)
        verdict = settle_route(plan, local_ok=False, cloud_error=error)
        took = self._now() - asked.started
        self._observer.finished(
            Outcome(
                model=asked.model,
                release=0,
                variant="",
                verdict=verdict,
                latency_s=took,
                inputs={},
                outputs={},
                scores=Scores(),
            )
        )
        if answer is None:
            raise InferenceError(
                f"model {asked.model!r} is not in service yet and the cloud did not answer: {verdict.fallback_reason}",
                subject=asked.model,
                hint="see GET /status",
                retry_after_s=self.cloud.retry_after_s(asked, verdict),
                busy=verdict.fallback_reason == "cloud-busy",
            )
        return oip.InferResponse(
            model_name=asked.model,
            model_version=answer.model_version,
            id=asked.request.id,
            parameters=answer_parameters(verdict, None, None, took, answer),
            outputs=answer.outputs,
        )


def _observed(request: oip.InferRequest) -> bool:
    return request.parameters.get("observe") is not False

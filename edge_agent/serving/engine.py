"""One request from inputs to answer: local model, decision, cloud, record.

Everything on the local path runs on the event loop without a thread hop; only a run that may take longer than
`slots.SLOW_S`, by its model and its number of values, is moved to a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from edge_agent.errors import InferenceError, LateError, NotFoundError, UnreachableError
from edge_agent.serving.answers import answers_of, checked
from edge_agent.serving.bounds import BODY_LIMIT, JSON_LIMIT
from edge_agent.serving.cloud import CloudError
from edge_agent.serving.endpoint import Endpoint, NotAskedError, Question
from edge_agent.serving.outcomes import Observer, Outcome, Refused
from edge_agent.serving.policy import Policies
from edge_agent.serving.router import Local, Route, Verdict, route, settle, threshold
from edge_agent.serving.scores import Scores, score
from edge_agent.serving.slots import Arrays, Served, Slots, in_words, unforeseen
from edge_agent.watchdog import Runs
from fleet import tasks
from fleet.protocol import oip
from fleet.protocol.channel import MILLION, ModelEntry
from fleet.protocol.errors import MalformedError, ProtocolError, RefusalError, refusal_word
from fleet.protocol.interface import takes
from fleet.runtimes import InputError
from fleet.runtimes.models import unfair

log = logging.getLogger(__name__)


class Engine:
    """Answers requests with the slots' releases and the cloud."""

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
        self._cloud = cloud
        self._observer = observer
        self._rng = rng
        self._now = now
        self.runs = Runs()

    async def infer(self, model: str, version: str, request: oip.InferRequest) -> oip.InferResponse:
        """Answer a request; a version asks for the active release or the previous one, if it is held.

        Parameters of a request: `deadline_ms` shortens the channel's deadline, `route: "edge"` keeps
        this request on the device, `route: "cloud"` asks the cloud whatever the confidence,
        `observe: false` keeps it out of windows, samples and audits.

        Raises:
            NotFoundError: no such model or version here.
            RefusalError: inputs that are not what the model takes, outputs that it does not have, or a batch that it
                failed on and need not take.
            InferenceError: nobody could answer; the message says why.
        """
        started = self._now()
        entry = self._policies.entry(model)
        drawn = _observed(request) and entry.audit.auditor is not None and self._rng() * MILLION < entry.audit.share_ppm
        with self.slots.lease(model, version) as served:
            if served is None:
                self._check_known(model, version)
                return await self._without_local(model, entry, request, started)
            manifest = served.release.manifest
            try:
                inputs = oip.check_request(request, manifest.inputs, manifest.outputs)
            except RefusalError as error:
                self._refused(served, request, error, started)
                raise
            return await self._with_local(served, entry, request, inputs, started, drawn)

    def body_limit(self, model: str) -> int:
        """The most bytes that the body of a request to this model may have."""
        slot = self.slots.slot(model)
        if slot is not None and slot.active is not None:
            return slot.active.body_limit
        return BODY_LIMIT if self._policies.knows(model) or self.slots.expects(model) else JSON_LIMIT

    def refuse(self, model: str, error: ProtocolError) -> None:
        """Count a request to a model that is served here, or is to be, whose body could not be read."""
        self._refuse_unread(model, refusal_word(error), str(error))

    def _refuse_unread(self, model: str, word: str, why: str) -> None:
        with self.slots.lease(model) as served:
            if served is not None:
                served.refuse(why, newly=False)
            elif not (self._policies.knows(model) or self.slots.expects(model)):
                return  # any name at all may come here
            number, variant = (served.release.number, served.release.variant.name) if served is not None else (0, "")
            refused = Refused(model=model, release=number, variant=variant, word=word, newly=False, latency_s=0.0)
            self._observer.refused(refused)

    def _refused(self, served: Served, request: oip.InferRequest, error: RefusalError, started: float) -> None:
        newly, release = takes(served.former, request), served.release
        served.refuse(str(error), newly=newly)
        if _observed(request):
            self._observer.refused(
                Refused(
                    model=release.model,
                    release=release.number,
                    variant=release.variant.name,
                    word=error.word,
                    newly=newly,
                    latency_s=self._now() - started,
                )
            )

    def _check_known(self, model: str, version: str) -> None:
        if version:
            self._refuse_unread(model, "version", f"no version {version!r}")
            raise NotFoundError(f"model {model!r} has no version {version!r} here", subject=model)
        if not (self._policies.knows(model) or self.slots.expects(model)):
            raise NotFoundError(f"model {model!r} is not served here", subject=model, hint="see GET /status")

    async def _with_local(
        self, served: Served, entry: ModelEntry, request: oip.InferRequest, inputs: Arrays, started: float, drawn: bool
    ) -> oip.InferResponse:
        outputs, scores, failure = await _run_local(served, inputs, self.runs)
        if drawn and failure is None and scores.answers:
            self._observer.audit(served, inputs, scores.answers)
        blamed = failure is not None and not isinstance(failure, RefusalError)
        lowest = min(scores.confidence) if scores.confidence else None
        limit = threshold(entry.routing, served.release.variant.deferral)
        local = Local(ok=failure is None, confidence=lowest, wants_cloud=request.parameters.get("route") == "cloud")
        plan = self._plan(served.release.model, served, local, limit, entry, request, started)
        answer, error = await self._ask(plan, served, request, entry, started)
        verdict = settle(plan, local_ok=failure is None, cloud_error=error)
        if _observed(request):
            self._observer.finished(
                Outcome(
                    model=served.release.model,
                    release=served.release.number,
                    variant=served.release.variant.name,
                    verdict=verdict,
                    latency_s=self._now() - started,
                    inputs=inputs,
                    outputs=outputs,
                    scores=scores,
                    local_failed=blamed,
                    refused=failure.word if isinstance(failure, RefusalError) else "",
                    task=tasks.of_manifest(served.release.manifest),
                    cloud_answers=answers_of(answer, served.release.manifest) if answer is not None else (),
                )
            )
        if verdict.served_by == "nobody" and failure is not None:
            if not blamed:
                served.refuse(str(failure), newly=False)
                raise failure
            why = f"model {served.release.model!r} failed: {in_words(failure)}; cloud: {verdict.fallback_reason}"
            raise InferenceError(
                why, retry_after_s=self._retry_after_s(served.release.model, entry, verdict)
            ) from failure
        values = answer.outputs if answer is not None else tuple(oip.TensorValue(*item) for item in outputs.items())
        number = str(served.release.number)
        return oip.InferResponse(
            model_name=served.release.model,
            model_version=answer.model_version or number if answer is not None else number,
            id=request.id,
            parameters=_parameters(verdict, served.release.number, lowest),
            outputs=values,
        )

    async def _without_local(
        self, model: str, entry: ModelEntry, request: oip.InferRequest, started: float
    ) -> oip.InferResponse:
        plan = self._plan(model, None, None, None, entry, request, started)
        answer, error = await self._ask(plan, None, request, entry, started, model=model)
        verdict = settle(plan, local_ok=False, cloud_error=error)
        self._observer.finished(
            Outcome(
                model=model,
                release=0,
                variant="",
                verdict=verdict,
                latency_s=self._now() - started,
                inputs={},
                outputs={},
                scores=Scores(),
            )
        )
        if answer is None:
            raise InferenceError(
                f"model {model!r} is not in service yet and the cloud did not answer: {verdict.fallback_reason}",
                subject=model,
                hint="see GET /status",
                retry_after_s=self._retry_after_s(model, entry, verdict),
            )
        return oip.InferResponse(
            model_name=model,
            model_version=answer.model_version,
            id=request.id,
            parameters=_parameters(verdict, 0, None),
            outputs=answer.outputs,
        )

    def _plan(
        self,
        model: str,
        served: Served | None,
        local: Local | None,
        limit: float | None,
        entry: ModelEntry,
        request: oip.InferRequest,
        started: float,
    ) -> Route:
        # A release without a cloud variant, on a channel without an auditor, has nobody to ask.
        somebody = served is None or _cloud_version(served, entry) is not None
        return route(
            local,
            limit,
            cloud=entry.routing.cloud and self._cloud is not None and somebody and not _edge_only(request),
            blocked=self._cloud.blocked(model, entry.routing) if self._cloud is not None else "",
            budget_s=_deadline_s(entry, request) - (self._now() - started),
        )

    def _retry_after_s(self, model: str, entry: ModelEntry, verdict: Verdict) -> float | None:
        """When to come back, for a request that nobody answered because the cloud was not to be asked."""
        if self._cloud is None or verdict.fallback_reason not in ("cloud-busy", "breaker-open"):
            return None
        return self._cloud.wait_s(model, entry.routing)

    async def _ask(
        self,
        plan: Route,
        served: Served | None,
        request: oip.InferRequest,
        entry: ModelEntry,
        started: float,
        *,
        model: str = "",
    ) -> tuple[oip.InferResponse | None, str | None]:
        """The cloud's answer, or the word for why there is none."""
        if not plan.ask or self._cloud is None:
            return None, None
        left = _deadline_s(entry, request) - (self._now() - started)
        forwarded = oip.InferRequest(
            id=request.id, inputs=_named(request, served), outputs=request.outputs, binary_outputs=oip.ALL
        )
        name = served.release.model if served is not None else model
        manifest = served.release.manifest if served is not None else None
        question = Question(
            name, _cloud_version(served, entry), forwarded, lambda said: checked(said, manifest, request.outputs)
        )
        try:
            return await self._cloud.ask(question, entry.routing, max(left, 0.001)), None
        except Exception as error:  # whatever the cloud's side raises must not cost the local answer
            log.log(
                logging.ERROR if unforeseen(error) else logging.DEBUG,
                "cloud: %s",
                in_words(error),
                exc_info=unforeseen(error),
            )
            return None, _word(error)


async def _run_local(served: Served, inputs: Arrays, runs: Runs) -> tuple[Arrays, Scores, Exception | None]:
    """The model's answer, or why there is none; a RefusalError when that is the caller's doing.

    A run is counted for probation when its end is known: one that is under way is no good answer yet.
    """
    try:
        if served.slow(inputs):
            async with served.turn or contextlib.nullcontext():
                with runs.one():
                    outputs = await asyncio.to_thread(served.run, inputs)
        else:
            outputs = served.run(inputs)
        scores = score(served.release, outputs)
    except InputError as error:
        return {}, Scores(), RefusalError(str(error), word="value", hint=error.hint)
    except Exception as error:  # whatever a runtime raises is a failed run
        reason = unfair(inputs, served.release.manifest.inputs)
        if reason:
            return {}, Scores(), RefusalError(reason, word="batch")
        served.count(failed=True)
        name, number = served.release.model, served.release.number
        log.warning("model %s release %d failed: %s", name, number, in_words(error), exc_info=unforeseen(error))
        return {}, Scores(), error if not isinstance(error, MalformedError) else InferenceError(str(error))
    served.count(failed=False)
    return outputs, scores, None


def _named(request: oip.InferRequest, served: Served | None) -> tuple[oip.TensorValue, ...]:
    if served is None or request.inputs[0].name:
        return request.inputs
    # A raw body has no tensor names; the cloud hears the manifest's.
    checked = oip.check_inputs(request.inputs, served.release.manifest.inputs)
    return tuple(oip.TensorValue(*item) for item in checked.items())


def _cloud_version(served: Served | None, entry: ModelEntry) -> int | None:
    """The release's own cloud variant, else the auditor, else whatever the hub holds current."""
    if served is not None and served.release.manifest.placed("cloud"):
        return served.release.number
    return entry.audit.auditor


def _observed(request: oip.InferRequest) -> bool:
    return request.parameters.get("observe") is not False


def _edge_only(request: oip.InferRequest) -> bool:
    """The caller wants the device's own answer (`"route": "edge"` in the request's parameters)."""
    return request.parameters.get("route") == "edge"


def _deadline_s(entry: ModelEntry, request: oip.InferRequest) -> float:
    asked = request.parameters.get("deadline_ms")
    allowed = entry.routing.deadline_ms
    if isinstance(asked, int | float) and not isinstance(asked, bool) and asked > 0:
        allowed = min(allowed, asked)  # type: ignore[assignment]  # a float is as good
    return allowed / 1000.0


def _word(error: Exception) -> str:
    if isinstance(error, NotAskedError):
        return error.reason
    if isinstance(error, LateError):
        return "deadline"
    if isinstance(error, UnreachableError):
        return "unreachable"
    if isinstance(error, CloudError):
        return f"cloud-{error.status}"
    return "cloud-failed"


def _parameters(verdict: Verdict, release: int, lowest: float | None) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "served_by": verdict.served_by,
        "release": release,
        "degraded": verdict.degraded,
        "deferred": verdict.deferred,
        "fallback_reason": verdict.fallback_reason,
    }
    if lowest is not None:
        parameters["confidence"] = lowest
    return parameters

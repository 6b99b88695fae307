"""The agent's part of a trace: a span for each request, for the model's run, and for the call to the cloud.

An agent without traces has none of this: `engine` and `route` give what stands in the place of the plain ones where
somebody wants traces, and the plain ones are not asked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from edge_agent import VERSION
from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError, UsageError
from edge_agent.serving.cloud_part import CloudPart
from edge_agent.serving.endpoint import Endpoint
from edge_agent.serving.engine import Engine
from edge_agent.serving.infer import InferRoute
from edge_agent.serving.outcomes import Observer
from edge_agent.serving.pending_request import PendingRequest
from edge_agent.serving.policy import Policies
from edge_agent.serving.runs import Ran
from edge_agent.serving.slots import Arrays, Served, Slots
from edge_agent.serving.turns import Found, InTurn
from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError
from fleet.serving import HotRequest, HotRoute, Promise, Reply
from fleet.tracing import Span, Tracer, carried, open_tracer, parent_only

TOLD = ("served_by", "variant", "confidence", "degraded", "fallback_reason")  # parameters of an answer


class Waits:
    """The span of a request, and a call that tells whether its caller has left: the engine hands both on with it."""

    def __init__(self, gone: Callable[[], bool], span: Span, began: float) -> None:
        self._gone, self.span, self.began = gone, span, began

    def __call__(self) -> bool:
        return self._gone()


class TracedEngine(Engine):
    """Answers as `Engine` does. A request that waits for the end of its turn is an awaitable here."""

    def __init__(self, *parts: Any, tracer: Tracer, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self._tracer = tracer
        self.cloud = TracedCloudPart(self.cloud, self._now, tracer)

    def answer(
        self,
        model: str,
        version: str,
        request: oip.InferRequest,
        began: float | None = None,
        gone: Callable[[], bool] = lambda: False,
    ) -> oip.InferResponse | InTurn | Awaitable[oip.InferResponse]:
        """See Engine."""
        now = self._now()
        span = self._tracer.begin(f"infer {model}", "server", now - (now if began is None else began))
        span.put(model=model, request_id=request.id or None)
        try:
            with span.inside():
                found = super().answer(model, version, request, began, Waits(gone, span, now))
        except Exception as error:
            _ended(span, error)
            raise
        if isinstance(found, oip.InferResponse):
            _told(span, found)
            return found
        if isinstance(found, InTurn):
            future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
            found.hear = lambda said: None if future.done() else future.set_result(said)
            return self._later(_of_turn(future), span)
        return self._later(found, span)

    async def _later(self, found: Awaitable[oip.InferResponse], span: Span) -> oip.InferResponse:
        try:
            with span.inside():
                response = await found
        except BaseException as error:
            _ended(span, error)
            raise
        _told(span, response)
        return response

    def _alone(
        self, served: Served, asked: PendingRequest, inputs: Arrays
    ) -> oip.InferResponse | Awaitable[oip.InferResponse]:
        cast(Waits, asked.gone).began = self._now()
        return super()._alone(served, asked, inputs)

    def _after(
        self, served: Served, asked: PendingRequest, inputs: Arrays, ran: Ran
    ) -> oip.InferResponse | Awaitable[oip.InferResponse]:
        """The run is over: with it the wait for an interpreter, where there was one."""
        waits = cast(Waits, asked.gone)
        with waits.span.inside():  # at the end of a turn the current one is that of another request
            run = self._tracer.begin("run", "internal", self._now() - waits.began)
            run.put(model=asked.model, release=served.release.number, variant=served.release.variant.name)
            if ran.failure is not None:
                run.fail(str(ran.failure))
            run.end()
            waits.span.put(release=served.release.number)
            return super()._after(served, asked, inputs, ran)


class TracedCloudPart(CloudPart):
    """Asks as `CloudPart` does; the call is a span, and the cloud's own are its children."""

    def __init__(self, plain: CloudPart, now: Callable[[], float], tracer: Tracer) -> None:
        super().__init__(plain.endpoint, now)
        self._tracer = tracer

    async def ask(self, served: Served | None, asked: PendingRequest) -> tuple[oip.InferResponse | None, str | None]:
        """See CloudPart."""
        remote = asked.entry.routing.remote
        span = self._tracer.begin("fallback", "client")
        span.put(model=asked.model, server=remote.url if remote is not None else "hub")
        try:
            with span.inside():
                answer, word = await super().ask(served, asked)
        except BaseException as error:
            _ended(span, error)
            raise
        if word is not None:
            span.put(fallback_reason=word)
            span.fail(word)
        span.end()
        return answer, word


class TracedRoute:
    """Implements `fleet.serving.HotRoute`: `route`, with each request in the trace that its headers name."""

    def __init__(self, route: InferRoute, tracer: Tracer) -> None:
        self._route, self._tracer = route, tracer
        self.begin, self.too_large = route.begin, route.too_large

    def answer(self, request: HotRequest) -> Reply | Promise | Awaitable[Reply]:
        """See HotRoute."""
        headers = carried(request.headers)
        with self._tracer.following(headers):
            found = self._route.answer(request)
        return found if isinstance(found, Reply | Promise) else self._later(found, headers)

    async def _later(self, found: Awaitable[Reply], headers: Mapping[str, str]) -> Reply:
        with self._tracer.following(headers):
            return await found


def make_tracer(config: AgentConfig, device: str) -> Tracer:
    """Make the tracer that `[tracing]` asks for; raises UsageError where there can be none."""
    settings = config.tracing
    try:
        facts = {"service.version": VERSION, "service.instance.id": device}
        return open_tracer("edge-agent", settings.endpoint, settings.ratio, facts)
    except ValueError as error:
        raise UsageError(f"tracing: {error}", subject="tracing", hint="see [tracing] of agent.toml") from error


def carried_to_others(config: AgentConfig, tracer: Tracer) -> Callable[[], dict[str, str]]:
    """Headers that hand the trace on to servers which channels name, and whose owners are not ours."""
    return tracer.carried if config.tracing.state_to_others else parent_only(tracer.carried)


def make_engine(
    slots: Slots,
    policies: Policies,
    cloud: Endpoint,
    observer: Observer,
    tracer: Tracer,
    rng: Callable[[], float] = random.random,
) -> Engine:
    """The engine, which makes spans where somebody wants them."""
    if not tracer.on:
        return Engine(slots, policies, cloud, observer, rng=rng)
    return TracedEngine(slots, policies, cloud, observer, rng=rng, tracer=tracer)


def traced(route: InferRoute, tracer: Tracer) -> HotRoute:
    """The hot route, which reads the trace of a request where somebody wants it."""
    return TracedRoute(route, tracer) if tracer.on else route


async def _of_turn(future: asyncio.Future[Found]) -> oip.InferResponse:
    found: Any = await future
    if isinstance(found, Exception):
        raise found
    return cast(oip.InferResponse, found if isinstance(found, oip.InferResponse) else await found)


def _told(span: Span, response: oip.InferResponse) -> None:
    """End a request's span with what its answer says of itself."""
    parameters = response.parameters
    span.put(**{name: parameters[name] for name in TOLD if parameters.get(name) not in (None, "")})
    if parameters.get("release"):
        span.put(release=int(parameters["release"]))
    span.end()


def _ended(span: Span, error: BaseException) -> None:
    """End a span whose request came to nothing; only what we have said ourselves is repeated."""
    known = isinstance(error, AgentError | ProtocolError)
    span.fail(str(error) if known else type(error).__name__)
    span.end()

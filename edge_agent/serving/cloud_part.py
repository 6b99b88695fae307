"""The cloud's part of a request: whether it is asked, how long it may take, what it answers, and when to come back."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_agent.serving.answers import checked
from edge_agent.serving.endpoint import Endpoint, Question, word_of
from edge_agent.serving.failures import error_in_words, unforeseen
from edge_agent.serving.forwarding import cloud_version, forwarded, somebody
from edge_agent.serving.pending_request import PendingRequest
from edge_agent.serving.router import Local, Route, RoutingResult, route
from edge_agent.serving.slots import Served
from fleet.protocol import oip
from fleet.protocol.channel import SPECULATIVE

log = logging.getLogger(__name__)


class CloudPart:
    """`endpoint` is None where there is no cloud; `now` is the event loop's clock."""

    def __init__(self, endpoint: Endpoint | None, now: Callable[[], float]) -> None:
        self.endpoint, self._now = endpoint, now

    def speculates(self, served: Served, asked: PendingRequest) -> bool:
        """Return whether the cloud is asked before the local answer is known."""
        if asked.entry.routing.when != SPECULATIVE:
            return False
        return self.plan(served, asked, Local(ok=True, wants_cloud=True), None).ask

    def plan(self, served: Served | None, asked: PendingRequest, local: Local | None, limit: float | None) -> Route:
        """Return the route: to ask the cloud or not, and why; `local` and `limit` are of the run here, None where
        there was none."""
        routing = asked.entry.routing
        return route(
            local,
            limit,
            cloud=self.endpoint is not None and somebody(served, asked.entry),
            edge_only=asked.request.parameters.get("route") == "edge",
            blocked=self.endpoint.blocked(asked.model, routing)
            if self.endpoint is not None and not asked.early
            else "",
            budget_s=self._left_s(asked),
            when=routing.when,
        )

    def _left_s(self, asked: PendingRequest) -> float:
        """Seconds that the cloud may take."""
        until = asked.started + asked.entry.routing.deadline_ms / 1000.0
        return (until if asked.until is None else min(until, asked.until)) - self._now()

    def retry_after_s(self, asked: PendingRequest, verdict: RoutingResult) -> float | None:
        """Return the seconds until a caller may ask again, where nobody answered as the cloud was not to be asked."""
        if self.endpoint is None or verdict.fallback_reason not in ("cloud-busy", "breaker-open"):
            return None
        return self.endpoint.wait_s(asked.model, asked.entry.routing)

    async def ask(self, served: Served | None, asked: PendingRequest) -> tuple[oip.InferResponse | None, str | None]:
        """The cloud's answer, or the word for why there is none."""
        assert self.endpoint is not None
        request = forwarded(asked.request, served)
        manifest = served.release.manifest if served is not None else None
        question = Question(
            asked.model,
            cloud_version(served, asked.entry),
            request,
            lambda said: checked(said, manifest, request),
            asked.gone,
        )
        try:
            return await self.endpoint.ask(question, asked.entry.routing, max(self._left_s(asked), 0.001)), None
        except Exception as error:  # whatever the cloud's side raises must not cost the local answer
            level = logging.ERROR if unforeseen(error) else logging.DEBUG
            log.log(level, "cloud: %s", error_in_words(error), exc_info=unforeseen(error))
            return None, word_of(error)

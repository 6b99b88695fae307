"""The hub's part of a trace: a span for each inference request, over HTTP and gRPC, and one for the model's run.

A hub without traces has the plain endpoint.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, cast

from cloud_hub.config import HubConfig
from cloud_hub.errors import HubError, InvalidError
from cloud_hub.inference.endpoint import InferEndpoint
from cloud_hub.inference.loaded import LoadedRelease
from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError
from fleet.serving import HotRequest, Reply
from fleet.tracing import Span, Tracer, carried, open_tracer


class TracedEndpoint(InferEndpoint):
    """Answers as `InferEndpoint` does."""

    def __init__(self, *parts: Any, longest_s: float, tracer: Tracer) -> None:
        super().__init__(*parts, longest_s=longest_s)
        self._tracer = tracer

    async def answer(self, request: HotRequest) -> Reply:
        """See InferEndpoint."""
        served = cast(LoadedRelease, request.context.served)
        with self._tracer.following(carried(request.headers)):
            span = self._begin(served)
            try:
                with span.inside():
                    reply = await super().answer(request)
            except BaseException as error:
                _ended(span, error)
                raise
            span.put(status=reply.status)
            if reply.status >= 400:
                span.fail(f"status {reply.status}")
            span.end()
            return reply

    async def infer(
        self,
        served: LoadedRelease,
        asked: oip.InferRequest,
        began: float,
        gone: Callable[[], bool],
        longest_s: float | None = None,
    ) -> oip.InferResponse:
        """Answer as InferEndpoint does; over gRPC the request begins here, in the trace that its metadata name."""
        if self._tracer.has_span():
            return await self._in(
                self._tracer.begin("run"), served, super().infer(served, asked, began, gone, longest_s)
            )
        return await self._in(self._begin(served), served, self.infer(served, asked, began, gone, longest_s))

    async def _in(
        self, span: Span, served: LoadedRelease, answering: Coroutine[Any, Any, oip.InferResponse]
    ) -> oip.InferResponse:
        """The answer, within a span that ends with it."""
        span.put(model=served.model, release=served.number)
        try:
            with span.inside():
                response = await answering
        except BaseException as error:
            _ended(span, error)
            raise
        span.put(variant=str(response.parameters.get("variant", "")) or None)
        span.end()
        return response

    def _begin(self, served: LoadedRelease) -> Span:
        span = self._tracer.begin(f"infer {served.model}", "server")
        span.put(model=served.model, release=served.number)
        return span


def make_tracer(config: HubConfig, service: str = "cloud-hub") -> Tracer:
    """Make the tracer that `[tracing]` asks for; `service` is who sends, as traces name it.

    Raises:
        InvalidError: it cannot be had.
    """
    settings = config.tracing
    try:
        # Each process is an instance: hubs behind one address, and those of the role infer beside them.
        facts = {
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            "edgeloop.hub": config.addresses.http_advertise,
        }
        return open_tracer(service, settings.endpoint, settings.ratio, facts)
    except ValueError as error:
        raise InvalidError(f"tracing: {error}", subject="tracing", hint="see [tracing] of hub.toml") from error


def _ended(span: Span, error: BaseException) -> None:
    """End a span whose request came to nothing; only what the hub says itself is repeated."""
    span.fail(str(error) if isinstance(error, HubError | ProtocolError) else type(error).__name__)
    span.end()

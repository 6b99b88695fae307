"""Traces by OpenTelemetry: sent in batches by a thread of its own, sampled by the parent's word, else by a share.

The global provider is left alone: an application that loads models in its own process has its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fleet.tracing.port import Kind, Span, Value

EXPORT_S = 5.0  # for one batch; spans are dropped by and by where nobody takes them
WAITING, AT_ONCE = 2048, 512  # spans
LAST_S = 2.0  # for what is left at the end: who stops or starts anew must not wait for a collector that is away
AGAIN_S = 600.0  # until the same trouble with the collector is logged again
LOGGERS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
PREFIX = "edgeloop."
KINDS = {
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "internal": trace.SpanKind.INTERNAL,
    "producer": trace.SpanKind.PRODUCER,
    "consumer": trace.SpanKind.CONSUMER,
}


class RarelyAgain(logging.Filter):
    """Lets a message through once in `AGAIN_S` seconds, whatever it is filled with.

    A collector that is away is said by every batch, several times, for as long as it lasts.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is logged."""
        now, text = self._now(), str(record.msg)
        if now - self._said.get(text, -AGAIN_S) < AGAIN_S:
            return False
        self._said[text] = now
        return True


RARELY = RarelyAgain()  # of this process: a logger takes the same one once


class OtelSpan:
    """Implements `Span`."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def inside(self) -> AbstractContextManager[object]:
        """See Span."""
        return trace.use_span(self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False)

    def put(self, **facts: Value | None) -> None:
        """See Span; names get the prefix `edgeloop.`."""
        for name, value in facts.items():
            if value is not None:
                self._span.set_attribute(PREFIX + name, value)

    def fail(self, why: str) -> None:
        """See Span."""
        self._span.set_status(trace.StatusCode.ERROR, why[:300])

    def end(self) -> None:
        """See Span."""
        self._span.end()


class OtelTracer:
    """Implements `Tracer` over one processor of spans."""

    on = True

    def __init__(
        self, service: str, ratio: float, facts: Mapping[str, Any], processor: SpanProcessor, last_s: float = LAST_S
    ) -> None:
        resource = Resource({"service.name": service, **facts})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("edgeloop")
        self._words, self._last_s = TraceContextTextMapPropagator(), last_s

    def begin(self, name: str, kind: Kind = "internal", ago_s: float = 0.0) -> Span:
        """See Tracer."""
        began = time.time_ns() - int(ago_s * 1e9)
        return OtelSpan(self._tracer.start_span(name, kind=KINDS[kind], start_time=began))

    @contextmanager
    def following(self, headers: Mapping[str, str]) -> Iterator[None]:
        """See Tracer."""
        token = contexts.attach(self._read(headers))
        try:
            yield
        finally:
            contexts.detach(token)

    def follow(self, headers: Mapping[str, str]) -> None:
        """See Tracer."""
        contexts.attach(self._read(headers))

    def has_span(self) -> bool:
        """See Tracer."""
        found = trace.get_current_span().get_span_context()
        return bool(found.is_valid and not found.is_remote)

    def carried(self) -> dict[str, str]:
        """See Tracer."""
        headers: dict[str, str] = {}
        self._words.inject(headers)
        return headers

    def close(self) -> None:
        """See Tracer; what a collector has not taken after `LAST_S` seconds is lost."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(self._last_s)

    def _read(self, headers: Mapping[str, str]) -> contexts.Context:
        return self._words.extract(headers, contexts.Context())


def exporting(service: str, endpoint: str, ratio: float, facts: Mapping[str, Any]) -> OtelTracer:
    """A tracer that sends by OTLP over HTTP."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(RARELY)
    sender = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_S)
    processor = BatchSpanProcessor(
        sender, max_queue_size=WAITING, max_export_batch_size=AT_ONCE, export_timeout_millis=EXPORT_S * 1000
    )
    return OtelTracer(service, ratio, facts, processor)

"""Spans that stay in memory."""

from __future__ import annotations

import pytest

from fleet.tracing import Tracer

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


class Kept:
    """The spans that tracers have made, by the name of who made it and the span's own."""

    def __init__(self) -> None:
        pytest.importorskip("opentelemetry.sdk", reason='pip install "edgeloop[otel]"')
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._exporter = InMemorySpanExporter()

    def tracer(self, service: str, ratio: float = 1.0) -> Tracer:
        """A tracer whose spans are kept here."""
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor

        from fleet.tracing.otel import OtelTracer

        return OtelTracer(service, ratio, {}, SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> dict[tuple[str, str], list]:
        """Spans that are over."""
        found: dict[tuple[str, str], list] = {}
        for span in self._exporter.get_finished_spans():
            found.setdefault((span.resource.attributes["service.name"], span.name), []).append(span)
        return found

    def one(self, service: str, name: str):
        """The only span of this name."""
        (span,) = self.spans[service, name]
        return span

"""Traces of requests from application to model: the port, an adapter that does nothing, and one of OpenTelemetry.

port     what the other rooms know: `Tracer`, `Span`, `OFF`
otel     the adapter; it imports the extra [otel], and is imported where a setting asks for traces, by `open_tracer`
"""

from fleet.tracing.loading import open_tracer
from fleet.tracing.port import OFF, Span, Tracer, carried, parent_only

__all__ = ["OFF", "Span", "Tracer", "carried", "open_tracer", "parent_only"]

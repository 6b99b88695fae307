"""The adapter that settings ask for; OpenTelemetry is imported then and not before."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from fleet.tracing.port import OFF, Tracer


def open_tracer(service: str, endpoint: str, ratio: float, facts: dict[str, Any]) -> Tracer:
    """A tracer that sends to `endpoint`; `OFF` where that is empty.

    Args:
        service: who sends, as traces name it.
        endpoint: where OTLP over HTTP goes, such as http://127.0.0.1:4318/v1/traces.
        ratio: the share of traces that begin here which are sent; others follow the caller's word.
        facts: what else is known of this process.

    Raises:
        ValueError: an address that is none, or the extra is missing; the text says which.
    """
    if not endpoint:
        return OFF
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ValueError("endpoint is no address such as http://127.0.0.1:4318/v1/traces, without user and password")
    try:
        from fleet.tracing.otel import exporting
    except ImportError as error:
        raise ValueError(f'traces need an extra: pip install "edgeloop[otel]" ({error})') from error
    return exporting(service, endpoint, ratio, facts)

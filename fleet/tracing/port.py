"""The rooms' view of traces. The current context decides where a trace goes on, as `contextvars` has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

Value = str | bool | int | float
Kind = Literal["server", "client", "internal", "producer", "consumer"]
CARRIED = (b"traceparent", b"tracestate")


def carried(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The headers of W3C's trace context among those of a request, as `Tracer.following` reads them."""
    return {name.decode(): headers[name].decode("latin-1") for name in CARRIED if name in headers}


def parent_only(carried: Callable[[], dict[str, str]]) -> Callable[[], dict[str, str]]:
    """Headers for servers of others: the trace's number, without what vendors of callers keep in `tracestate`."""
    return lambda: {name: value for name, value in carried().items() if name == "traceparent"}


class Span(Protocol):
    """A stretch of time in a trace, until `end`."""

    def inside(self) -> AbstractContextManager[object]:
        """In the block, spans that begin are children of this one."""

    def put(self, **facts: Value | None) -> None:
        """Record facts; None leaves a fact out."""

    def fail(self, why: str) -> None:
        """It came to nothing."""

    def end(self) -> None:
        """It is over now."""


class Tracer(Protocol):
    """Makes spans, and carries the trace across connections by the headers of W3C (`traceparent`, `tracestate`).

    Attributes:
        on: whether anybody wants traces; where it is False no other method need be called.
    """

    on: bool

    def begin(self, name: str, kind: Kind = "internal", ago_s: float = 0.0) -> Span:
        """A span that began `ago_s` seconds ago, in the current trace, or of a trace of its own."""

    def following(self, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        """In the block, the current trace is the one that these headers name (in lower case), or none."""

    def follow(self, headers: Mapping[str, str]) -> None:
        """The same for the rest of the current task."""

    def has_span(self) -> bool:
        """Tell whether a span of this process is current."""

    def carried(self) -> dict[str, str]:
        """Headers that hand the current trace on; empty where there is none."""

    def close(self) -> None:
        """Send what is left."""


class _NoSpan:
    def inside(self) -> AbstractContextManager[object]:
        return nullcontext()

    def put(self, **facts: Value | None) -> None:
        pass

    def fail(self, why: str) -> None:
        pass

    def end(self) -> None:
        pass


class _NoTracer:
    on = False

    def begin(self, name: str, kind: Kind = "internal", ago_s: float = 0.0) -> Span:
        return NO_SPAN

    def following(self, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        return nullcontext()

    def follow(self, headers: Mapping[str, str]) -> None:
        pass

    def has_span(self) -> bool:
        return False

    def carried(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


NO_SPAN: Span = _NoSpan()
OFF: Tracer = _NoTracer()  # nobody wants traces

"""The ingest's part of a trace: a span for each command that is sent, and for each answer until it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cloud_hub.ingest.inbox import Message
from fleet.tracing import Span, Tracer


@contextmanager
def span_of_sending(tracer: Tracer, command: str) -> Iterator[Mapping[str, str]]:
    """In the block a command is sent; gives the headers that its message carries."""
    span = tracer.begin("send command", "producer")
    span.put(command=command)
    try:
        with span.inside():
            yield tracer.carried()
    finally:
        span.end()


@contextmanager
def spans_of_taking(tracer: Tracer, batch: Sequence[Message]) -> Iterator[None]:
    """In the block messages are written; those that carry a trace have a span in it, which fails as the block does."""
    spans = [_begun(tracer, message) for message in batch if message.carried] if tracer.on else []
    try:
        yield
    except Exception as error:
        for span in spans:
            span.fail(type(error).__name__)
        raise
    finally:
        for span in spans:
            span.end()


def _begun(tracer: Tracer, message: Message) -> Span:
    with tracer.following(message.carried):
        _, _, leaf = message.topic.rpartition("/")
        return tracer.begin(f"take {leaf}", "consumer")

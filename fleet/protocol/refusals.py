"""The words by which a program tells refusals apart, over HTTP and gRPC: one table for hub and agent.

A refusal's document holds its word as `code`, beside the sentence for people in `error`. A status in `LATER` comes
with Retry-After. Over gRPC word and seconds are in the trailing metadata. `docs/how-to/call-the-api.md` says what each
word means.
"""

from __future__ import annotations

from typing import Literal, get_args

Code = Literal[
    "invalid",
    "unauthenticated",
    "forbidden",
    "not-found",
    "method-not-allowed",
    "conflict",
    "too-large",
    "no-answer",
    "rate-limited",
    "internal",
    "busy",
    "unreachable",
    "deadline",
]

STATUS: dict[Code, int] = {
    "invalid": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "conflict": 409,
    "too-large": 413,
    "no-answer": 422,  # the model took the request and failed on it
    "rate-limited": 429,  # this caller asks too often; others are served
    "internal": 500,
    "busy": 503,  # a queue is full, whoever asks
    "unreachable": 503,  # nobody who could answer does
    "deadline": 504,
}
GRPC: dict[Code, str] = {  # the names of `grpc.StatusCode`
    "invalid": "INVALID_ARGUMENT",
    "unauthenticated": "UNAUTHENTICATED",
    "forbidden": "PERMISSION_DENIED",
    "not-found": "NOT_FOUND",
    "method-not-allowed": "UNIMPLEMENTED",
    "conflict": "ABORTED",
    "too-large": "INVALID_ARGUMENT",
    "no-answer": "FAILED_PRECONDITION",
    "rate-limited": "RESOURCE_EXHAUSTED",
    "internal": "INTERNAL",
    "busy": "UNAVAILABLE",
    "unreachable": "UNAVAILABLE",
    "deadline": "DEADLINE_EXCEEDED",
}
CODES: tuple[Code, ...] = get_args(Code)
LATER = frozenset({429, 503})


def code_of(status: int) -> Code:
    """The word for a refusal of which only the status is known; `invalid` for any other of the caller's faults."""
    known = next((code for code, value in STATUS.items() if value == status), None)
    return known or ("invalid" if status < 500 else "internal")

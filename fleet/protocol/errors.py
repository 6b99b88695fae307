"""The faults of a message from the other end.

ProtocolError
 ├── MalformedError      bytes that do not decode, or values out of their bounds
 │    ├── TooLargeError  refused before decoding
 │    └── RefusalError   a request that the model does not take; `word` says why (see `REFUSALS`)
 ├── VersionError        a major version this build does not speak
 └── UnsupportedError    a capability this build lacks (`unsupported:<name>`)
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Root of the room. `subject` names what was refused, `hint` says what to do about it."""

    def __init__(self, message: str, *, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.subject = subject
        self.hint = hint


class MalformedError(ProtocolError):
    """The bytes or values are not what the contract says."""


class TooLargeError(MalformedError):
    """Larger than the contract allows; nothing was decoded."""


# Why an inference request was refused. The first two say nothing about the model: no other would take it either.
REFUSALS = ("body", "size", "name", "datatype", "shape", "value", "batch", "output", "version", "other")


class RefusalError(MalformedError):
    """A request that decodes, and that the model does not take. `word` is one of `REFUSALS`.

    `tensor` is the input that held NaN or infinity, and `place` which number of its row did; "" and -1 otherwise.
    """

    def __init__(self, message: str, *, word: str, hint: str = "", tensor: str = "", place: int = -1) -> None:
        super().__init__(message, subject="inference", hint=hint)
        self.word = word
        self.tensor = tensor
        self.place = place


def refusal_word(error: ProtocolError) -> str:
    """Return the reason for which a request was refused, as one of `REFUSALS`."""
    if isinstance(error, RefusalError):
        return error.word
    return "size" if isinstance(error, TooLargeError) else "body"


class VersionError(ProtocolError):
    """An unknown major version."""


class UnsupportedError(ProtocolError):
    """A required capability is missing here; `subject` is the capability's name."""

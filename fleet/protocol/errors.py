"""What can be wrong with something the other end said.

ProtocolError
 ├── MalformedError      bytes that do not decode, or values out of their bounds
 │    └── TooLargeError  refused before decoding
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


class VersionError(ProtocolError):
    """An unknown major version."""


class UnsupportedError(ProtocolError):
    """A required capability is missing here; `subject` is the capability's name."""

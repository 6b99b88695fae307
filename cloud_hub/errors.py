"""The errors of the hub, with the exit code and word of each; `fleet.protocol.refusals` has the word's status.

HubError
 ├── InvalidError        the request or file is not acceptable          400   exit 1
 ├── UsageError          the command line cannot mean anything          400   exit 2
 ├── UnauthenticatedError no or a wrong credential                      401   exit 4
 ├── ForbiddenError      the credential does not allow this             403   exit 4
 ├── NotFoundError       no such thing                                  404   exit 3
 ├── ConflictError       it exists, changed meanwhile, or is in use     409   exit 5
 ├── TooLargeError       over a size limit                              413   exit 1
 ├── NoAnswerError       the model failed on this request               422   exit 1
 ├── RateError           more requests than this token may make         429   exit 1
 ├── BusyError           a queue is full; come back later               503   exit 1
 ├── UnreachableError    broker, database or store does not answer      503   exit 6
 │    └── KeptError      it is kept, and shown to devices once they do  503   exit 6
 └── DeadlineError       not done in time                               504   exit 8
"""

from __future__ import annotations

from typing import ClassVar

from fleet.protocol.errors import ProtocolError
from fleet.protocol.errors import TooLargeError as ProtocolTooLargeError
from fleet.protocol.refusals import STATUS, Code


class HubError(Exception):
    """Root of the room. `subject` names what it is about, `hint` says what to do."""

    exit_code = 1
    code: ClassVar[Code] = "internal"

    @property
    def status(self) -> int:
        """Of the answer over HTTP."""
        return STATUS[self.code]

    def __init__(self, message: str, *, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.subject = subject
        self.hint = hint


class InvalidError(HubError):
    """The request or file is not acceptable."""

    code = "invalid"


class UsageError(HubError):
    """The command line cannot mean anything."""

    exit_code = 2
    code = "invalid"


class UnauthenticatedError(HubError):
    """No credential, or one that is unknown, expired or revoked."""

    exit_code = 4
    code = "unauthenticated"


class ForbiddenError(HubError):
    """A valid credential that does not allow this."""

    exit_code = 4
    code = "forbidden"


class NotFoundError(HubError):
    """No such thing."""

    exit_code = 3
    code = "not-found"


class ConflictError(HubError):
    """It exists already, changed meanwhile, or is in use."""

    exit_code = 5
    code = "conflict"


class TooLargeError(HubError):
    """Over a size limit."""

    code = "too-large"


class NoAnswerError(HubError):
    """The model took the request and failed on it, or answered NaN; others it may answer well."""

    code = "no-answer"


class RateError(HubError):
    """More requests than the caller's token may make; the answer carries Retry-After."""

    code = "rate-limited"


class BusyError(HubError):
    """A queue is full; the answer carries Retry-After."""

    code = "busy"


class UnreachableError(HubError):
    """Broker, database or object store does not answer."""

    exit_code = 6
    code = "unreachable"


class KeptError(UnreachableError):
    """A change that is in the database and cannot be shown to devices yet: the hub shows it by itself once it can."""


class DeadlineError(HubError):
    """Not done in time."""

    exit_code = 8
    code = "deadline"


def error_code(error: HubError | ProtocolError) -> Code:
    """The word of an error, the protocol's own included."""
    if isinstance(error, HubError):
        return error.code
    return "too-large" if isinstance(error, ProtocolTooLargeError) else "invalid"

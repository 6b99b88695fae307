"""What can go wrong in the hub, and the one table that maps it to HTTP status and exit code.

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
 └── DeadlineError       not done in time                               504   exit 8
"""

from __future__ import annotations


class HubError(Exception):
    """Root of the room. `subject` names what it is about, `hint` says what to do."""

    status = 500
    exit_code = 1
    code = "internal"

    def __init__(self, message: str, *, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.subject = subject
        self.hint = hint


class InvalidError(HubError):
    """The request or file is not acceptable."""

    status, exit_code, code = 400, 1, "invalid"


class UsageError(HubError):
    """The command line cannot mean anything."""

    status, exit_code, code = 400, 2, "invalid"


class UnauthenticatedError(HubError):
    """No credential, or one that is unknown, expired or revoked."""

    status, exit_code, code = 401, 4, "unauthenticated"


class ForbiddenError(HubError):
    """A valid credential that does not allow this."""

    status, exit_code, code = 403, 4, "forbidden"


class NotFoundError(HubError):
    """No such thing."""

    status, exit_code, code = 404, 3, "not-found"


class ConflictError(HubError):
    """It exists already, changed meanwhile, or is in use."""

    status, exit_code, code = 409, 5, "conflict"


class TooLargeError(HubError):
    """Over a size limit."""

    status, exit_code, code = 413, 1, "too-large"


class NoAnswerError(HubError):
    """The model took the request and failed on it, or answered NaN; others it may answer well."""

    status, exit_code, code = 422, 1, "no-answer"


class RateError(HubError):
    """More requests than the caller's token may make; the answer carries Retry-After."""

    status, exit_code, code = 429, 1, "busy"


class BusyError(HubError):
    """A queue is full; the answer carries Retry-After."""

    status, exit_code, code = 503, 1, "busy"


class UnreachableError(HubError):
    """Broker, database or object store does not answer."""

    status, exit_code, code = 503, 6, "unreachable"


class DeadlineError(HubError):
    """Not done in time."""

    status, exit_code, code = 504, 8, "deadline"

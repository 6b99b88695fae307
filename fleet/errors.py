"""The errors of somebody who steers a fleet, with the exit code of each.

FleetError
 ├── FailedError         the hub refused or failed                          exit 1
 ├── UsageError          the command cannot mean anything                   exit 2
 ├── NotFoundError       no such thing                                      exit 3
 ├── NotAllowedError     no credential, or one that does not allow this     exit 4
 ├── ConflictError       it exists, changed meanwhile, or is in use         exit 5
 ├── UnreachableError    the hub does not answer                            exit 6
 ├── HaltedError         a rollout was halted or aborted                    exit 7
 └── TimedOutError       it was not done in time                            exit 8
"""

from __future__ import annotations


class FleetError(Exception):
    """Root of the room. `subject` names what it is about, `hint` says what to do.

    `code` is the hub's word for its refusal (`fleet.protocol.refusals`); empty where the hub refused nothing.
    """

    exit_code = 1

    def __init__(self, message: str, *, subject: str = "", hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.subject = subject
        self.hint = hint
        self.code = code


class FailedError(FleetError):
    """The hub refused the request, or failed."""


class UsageError(FleetError):
    """The command cannot mean anything."""

    exit_code = 2


class NotFoundError(FleetError):
    """No such thing."""

    exit_code = 3


class NotAllowedError(FleetError):
    """No credential, or one that does not allow this."""

    exit_code = 4


class ConflictError(FleetError):
    """It exists already, changed meanwhile, or is in use."""

    exit_code = 5


class UnreachableError(FleetError):
    """The hub does not answer."""

    exit_code = 6


class HaltedError(FleetError):
    """A rollout was halted or aborted."""

    exit_code = 7


class TimedOutError(FleetError):
    """It was not done in time."""

    exit_code = 8


BY_STATUS: dict[int, type[FleetError]] = {
    400: FailedError,
    401: NotAllowedError,
    403: NotAllowedError,
    404: NotFoundError,
    409: ConflictError,
    502: UnreachableError,
    503: UnreachableError,
    504: TimedOutError,
}

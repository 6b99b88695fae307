"""What can go wrong on a device; each error carries its subject and a hint.

AgentError                   exit 1
 ├── UsageError              exit 2
 ├── NotFoundError           exit 3
 ├── DeniedError             exit 4   the hub refuses this device or token
 ├── ConflictError           exit 5
 ├── UnreachableError        exit 6   no answer from hub or broker
 ├── LateError               exit 8   a deadline passed
 ├── CorruptBlobError        a file does not have its hash
 ├── ActivationError         a release cannot be put into service
 ├── ModelLoadError          a runtime refuses a model
 ├── RuntimeMissingError     a runtime is not installed
 ├── InferenceError          nobody could answer a request
 └── SpoolError              the disk refuses the spool
"""

from __future__ import annotations


class AgentError(Exception):
    """Root of the room."""

    exit_code = 1

    def __init__(self, message: str, *, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.subject = subject
        self.hint = hint


class UsageError(AgentError):
    """The command line or configuration is wrong."""

    exit_code = 2


class NotFoundError(AgentError):
    """A model, release or file that is not here."""

    exit_code = 3


class DeniedError(AgentError):
    """The hub refuses this device, token or secret."""

    exit_code = 4


class ConflictError(AgentError):
    """Something is there already that contradicts."""

    exit_code = 5


class UnreachableError(AgentError):
    """The hub or broker does not answer."""

    exit_code = 6


class LateError(AgentError):
    """A deadline passed."""

    exit_code = 8


class CorruptBlobError(AgentError):
    """A file does not have the hash it is named by."""


class ActivationError(AgentError):
    """A release cannot be put into service."""


class ModelLoadError(AgentError):
    """A runtime refuses a model."""


class RuntimeMissingError(AgentError):
    """A runtime is not installed; the hint names the extra."""


class InferenceError(AgentError):
    """Nobody could answer a request."""


class SpoolError(AgentError):
    """The disk refuses the spool."""

"""The errors that a model file can cause.

RuntimesError
 ├── ModelLoadError       a runtime refuses the file, or its tensors are not the manifest's
 └── RuntimeMissingError  no runtime for it is installed; the hint names the extra

`InputError` is the caller's mistake and the protocol's: no model of this interface could take the values.
What a runtime raises while it runs passes through as it is.
"""

from __future__ import annotations

from fleet.protocol.errors import MalformedError


class RuntimesError(Exception):
    """Root of the room. `hint` says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ModelLoadError(RuntimesError):
    """The file is of no use here."""


class RuntimeMissingError(RuntimesError):
    """A runtime is not installed."""


class InputError(MalformedError):
    """Values that the model's datatype cannot hold: text that is not UTF-8, a number out of range."""

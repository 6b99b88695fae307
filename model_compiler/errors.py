"""The errors of the compiler. Every error ends the command with exit code 1, or with that of the file that caused it
(`fleet.console.exits`).

CompilerError
 ├── DataError      a calibration or validation set is not usable
 ├── SourceError    the model cannot be loaded
 ├── InterfaceError the result would not be what applications of the model rely on
 ├── TargetError    one variant cannot be built or run; the other targets still are
 └── GateError      no variant met the gate; nothing was written
"""

from __future__ import annotations


class CompilerError(Exception):
    """Root of the room. `subject` names the file or target, `hint` says what to do."""

    exit_code = 1

    def __init__(self, message: str, *, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.subject = subject
        self.hint = hint


class DataError(CompilerError):
    """A calibration or validation set is not usable."""


class SourceError(CompilerError):
    """The model cannot be loaded."""


class InterfaceError(CompilerError):
    """Inputs, outputs, classes or sketch encoder are not the model's."""


class TargetError(CompilerError):
    """One variant cannot be built or run."""


class NotFiniteError(TargetError):
    """A variant answers NaN or infinity where it must not."""


class GateError(CompilerError):
    """No variant met the gate."""

"""The errors of a simulation.

SimulationError
 ├── ProfileError   no such profile, or no share
 └── EndedError     a process ended before its time
"""

from __future__ import annotations


class SimulationError(Exception):
    """Root of the room; `hint` says what to do."""

    def __init__(self, message: str, *, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.subject, self.hint = subject, hint


class ProfileError(SimulationError):
    """No such profile, or a share that is none."""


class EndedError(SimulationError):
    """A process of the simulation ended before its time."""

"""The faults of a rollout's plan, policy and events.

RolloutError
 ├── PlanError         stages or devices that make no plan
 │    └── PolicyError  a guard policy that cannot be read
 └── TransitionError   an event that the rollout's state does not allow (a conflict)
"""

from __future__ import annotations


class RolloutError(Exception):
    """Root of the room. `subject` names what was refused, `hint` says what to do about it."""

    def __init__(self, message: str, *, subject: str = "rollout", hint: str = "") -> None:
        super().__init__(message)
        self.subject = subject
        self.hint = hint


class PlanError(RolloutError):
    """The rollout cannot be planned like this."""


class PolicyError(PlanError):
    """The guard policy has an unknown field, a wrong type, or a value out of its bounds."""


class TransitionError(RolloutError):
    """The rollout's state does not allow this event."""

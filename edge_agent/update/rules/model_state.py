"""The state of one model on a device: what serves, what is kept, what it moves to. `machine` changes it."""

from __future__ import annotations

from msgspec import Struct

from fleet.protocol.channel import Probation, RolloutRef
from fleet.protocol.messages import UpdateState

Key = tuple[int, str, str, int]


class HeldRelease(Struct, frozen=True, kw_only=True):
    """A release in the store: its number, the chosen variant, and the SHA-256 of its manifest."""

    release: int
    variant: str
    manifest: str


class Rejected(Struct, frozen=True, array_like=True):
    """A target that was rolled back, and why: its key, then the reason."""

    release: int
    variant: str
    rollout: str
    attempt: int
    reason: str = ""
    detail: str = ""

    @property
    def key(self) -> Key:
        """As `UpdateTarget.key`."""
        return self.release, self.variant, self.rollout, self.attempt


class UpdateTarget(Struct, frozen=True, kw_only=True):
    """The release that the device is moving to. `rollout` is set while it is in that rollout's cohort."""

    held: HeldRelease
    rollout: RolloutRef | None = None

    @property
    def key(self) -> Key:
        """The key of what a rollback forbids: (release, variant, rollout, attempt)."""
        rollout = self.rollout
        return self.held.release, self.held.variant, rollout.id if rollout else "", rollout.attempt if rollout else 0


class ModelState(Struct, frozen=True, kw_only=True):
    """One model's machine. `starts` counts agent starts while trying or in probation; `spent` the
    transitions that `last` (a target's key) has cost since it was last committed; `pairing` is the rollout
    that `active` belongs to; `baseline_us` what the release before the one on probation took, 0 if unknown;
    `about` the rollout whose release `reason` speaks of, where it speaks of one that is not active; `untried` whether
    `active` was committed by its self-test alone, since no request had come, and none has been answered since.
    """

    state: UpdateState = "idle"
    active: HeldRelease | None = None
    previous: HeldRelease | None = None
    older: HeldRelease | None = None
    target: UpdateTarget | None = None
    pairing: RolloutRef | None = None
    rejected: tuple[Rejected, ...] = ()
    last: Key | None = None
    starts: int = 0
    spent: int = 0
    probation: Probation = Probation()
    baseline_us: float = 0.0
    reason: str = ""
    detail: str = ""
    hint: str = ""
    about: RolloutRef | None = None
    untried: bool = False

    @property
    def committed(self) -> int | None:
        """The number of the release that passed its probation: what a rollout may start from."""
        held = self.previous if self.state == "probation" else self.active
        return held.release if held is not None else None

    @property
    def in_use(self) -> tuple[HeldRelease, ...]:
        """Everything that must stay in the store."""
        held = (self.active, self.previous, self.older, self.target.held if self.target else None)
        return tuple(h for h in held if h is not None)

    def rejection(self, target: UpdateTarget) -> Rejected | None:
        """Return why `target` is not tried again; None when it may be."""
        return next((rejected for rejected in self.rejected if rejected.key == target.key), None)

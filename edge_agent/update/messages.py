"""The messages between the serving process and its child, one JSON line each."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from edge_agent.update.disk.state import Looked
from edge_agent.update.rules.model_state import HeldRelease, UpdateTarget
from fleet.protocol.channel import RolloutRef


class LookRequest(Struct, frozen=True, kw_only=True):
    """The serving process's request to a look: what the device has and can. `held` are proven manifests by model."""

    device_id: str
    channel: str
    kinds: tuple[str, ...]
    runtimes: tuple[str, ...] = ()  # installed, by distribution; empty: any
    variants: tuple[str, ...] = ()  # preferred ones by name; others in the publisher's order
    capabilities: tuple[str, ...] = ()
    committed: dict[str, int] = field(default_factory=dict)
    held: dict[str, tuple[HeldRelease, ...]] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    pins: dict[str, int] = field(default_factory=dict)
    steps_only: bool = False  # another child has looked; this one only takes steps


class Offer(Struct, frozen=True, kw_only=True, tag="offer"):
    """A model's target, signed and allowed."""

    model: str
    target: UpdateTarget


class Refusal(Struct, frozen=True, kw_only=True, tag="refusal"):
    """The refusal to install a model's target; `rollout` is set while the device is in that rollout's cohort."""

    model: str
    release: int
    reason: str
    detail: str
    hint: str = ""
    rollout: RolloutRef | None = None


class Beside(Struct, frozen=True, kw_only=True, tag="beside"):
    """The release that a rollout's shadow stage wants beside the one that serves (`resolve.shadows`), signed and
    allowed; `held` None with why it may not be here."""

    model: str
    rollout: RolloutRef
    held: HeldRelease | None = None
    reason: str = ""
    detail: str = ""


StepName = Literal["fetch", "verify"]


class StepRequest(Struct, frozen=True, kw_only=True):
    """The step that the serving process asks for next."""

    step: StepName
    model: str
    held: HeldRelease
    max_bytes_per_s: int = 0
    allowance: int | None = None  # bytes that this fetch may still receive today; None: no budget
    beside: int = 0  # bytes of disk that other models under way will still take
    patch_s: float = 300.0  # seconds that patches which are of no use, and applying one, may take


class LookResult(Struct, frozen=True, kw_only=True, tag="looked"):
    """The result of the look."""

    looked: Looked


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """All offers were made."""


class StepProgress(Struct, frozen=True, kw_only=True, tag="progress"):
    """The share of bytes that are here, in [0, 1], and the bytes that came in this step."""

    share: float
    received: int


class Confined(Struct, frozen=True, kw_only=True, tag="confined"):
    """A trial begins, under `rlimits` and what this kernel has of `landlock-abi-N` and `seccomp`."""

    sandbox: tuple[str, ...]


class StepDone(Struct, frozen=True, kw_only=True, tag="done"):
    """The step succeeded, or the trial."""


class Failed(Struct, frozen=True, kw_only=True, tag="failed"):
    """The look or the step failed."""

    reason: str
    detail: str
    hint: str = ""


Message = LookResult | Offer | Refusal | Beside | Ready | StepProgress | Confined | StepDone | Failed

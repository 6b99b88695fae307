"""An operator's tolerance of a rollout: the bounds that the guard judges by. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from fleet.rollouts import collusion
from fleet.rollouts.errors import PolicyError
from fleet.rollouts.matching import FAIR

LEAST_ALPHA = 1e-9  # e-values end at `bets.LARGEST`: a proof that lies beyond would never come
MOST_COLLUDERS = 0.4


class GuardPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator's tolerance of a rollout.

    `alpha` bounds the chance of a false halt and, separately, of a false all-clear. `margin` is the
    net loss (requests only the old release got right, less those only the new one did, over all
    audited pairs) that is no longer tolerable. Every stage needs `min_pairs` pairs of its own, of
    which any may repeat inputs of earlier ones: they show that the stage was watched, and prove nothing more.
    Without evidence `evidence_deadline_s` seconds into a stage the rollout holds or halts.
    `max_install_failures` is a fraction of the cohort's devices: more keep a stage from being healthy, and halt the
    rollout where two or more of them say so themselves. One that was alive when it joined and has been silent for
    `silent_after_s` seconds, and for longer than is its habit, counts as failed. Without an auditor, `evidence` is
    "labels" (those of randomly drawn samples of both releases, matched: see `matching`), "signals" (failures, latency
    and confidence in windows of both releases: see `signals`), or "install": install health alone.

    `colluders` is the share of a cohort that may lie together: no verdict rests on so many devices, nor on a single one
    of two, nor on two of five (`collusion`).

    With `approval` every stage that is healthy waits until an operator approves it. `min_devices` have to have
    committed the release before a stage is healthy.

    With `max_p95_us` every stage waits until `min_measured` devices of the cohort (all of a smaller
    one) have measured the release (p95 at batch 1, µs), and it is harmful when the median over the
    devices of one hardware class lies above the limit.
    """

    alpha: float = 0.05
    margin: float = 0.05
    min_pairs: int = 30
    evidence_deadline_s: float = 3600.0
    on_no_evidence: Literal["hold", "halt"] = "hold"
    max_install_failures: float = 0.05
    silent_after_s: float = 300.0
    evidence: Literal["paired", "labels", "signals", "install"] = "paired"
    max_p95_us: float | None = None
    min_measured: int = 1
    approval: bool = False
    min_devices: int = 1
    colluders: float = collusion.SHARE

    def colluding(self, devices: int) -> int:
        """Return how many devices of a cohort decide nothing together."""
        return collusion.colluders(devices, self.colluders)

    @property
    def goal(self) -> str:
        """The meaning of "healthy" under this policy, in words."""
        if self.evidence == "install":
            return f"at most {100 * self.max_install_failures:g} % of the devices fail; answers are not judged"
        if self.evidence == "signals":
            what = f"not more by {points(self.margin)} of its windows outside of their devices' habit"
            return f"{what}, at {100 * (1 - self.alpha):g} %; answers are not judged"
        return f"not worse by more than {points(self.margin)}, at {100 * (1 - self.alpha):g} %"

    @property
    def pairs(self) -> str:
        """The name of its pairs, in words."""
        return {"labels": "matched labels", "signals": "matched windows"}.get(self.evidence, "audited pairs")

    @property
    def good(self) -> str:
        """The outcome of one of a pair that speaks for a release, in words."""
        return "within habit" if self.evidence == "signals" else "right"

    @property
    def least_devices(self) -> int:
        """The devices of each release that must bring matched pairs before they can show harm, and so health."""
        return math.ceil(math.log(2 / self.alpha) / FAIR)

    @property
    def matches(self) -> bool:
        """True if its pairs are those of two devices, of which one serves the old release."""
        return self.evidence in ("labels", "signals")


def load_policy(document: Mapping[str, Any]) -> GuardPolicy:
    """Read a stored policy; an unknown field or a value out of bounds is refused, never ignored.

    Raises:
        PolicyError: says which field.
    """
    try:
        policy = msgspec.convert(dict(document), GuardPolicy)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise PolicyError(f"the guard policy cannot be read: {error}", subject="guard") from error
    bounds = {
        "alpha": (LEAST_ALPHA <= policy.alpha <= 0.5, f"from {LEAST_ALPHA:g} to 0.5, a chance"),
        "margin": (0 < policy.margin <= 0.5, "above 0, at most 0.5; 0.05 is 5 points"),
        "min_pairs": (policy.min_pairs >= 0, "0 or more"),
        "evidence_deadline_s": (policy.evidence_deadline_s > 0, "seconds above 0"),
        "max_install_failures": (0 <= policy.max_install_failures < 1, "from 0 to below 1; 0.05 is 5 %"),
        "silent_after_s": (policy.silent_after_s > 0, "seconds above 0"),
        "max_p95_us": (policy.max_p95_us is None or policy.max_p95_us > 0, "microseconds above 0, or null"),
        "min_measured": (policy.min_measured >= 1, "1 or more"),
        "min_devices": (policy.min_devices >= 1, "1 or more"),
        "colluders": (0 <= policy.colluders <= MOST_COLLUDERS, f"from 0 to {MOST_COLLUDERS:g}, a share of the devices"),
    }
    for name, (good, hint) in bounds.items():
        if not good:
            what = f"the guard policy's {name} is {getattr(policy, name)}, out of bounds"
            raise PolicyError(f"{what}: it must be {hint}", subject="guard")
    return policy


def points(share: float) -> str:
    """A share of requests in percentage points, in words: 0.05 is "5 points"."""
    return f"{100 * share:.4g} point{'' if share == 0.01 else 's'}"

"""The shadow stage of a rollout: devices have a release answer copies of their requests, and serve none of its answers.

The order stands in the channel, in the `RolloutRef` of a rollout whose share is 0: an agent that does not know it reads
a rollout that nobody belongs to, and goes on. That it cannot do more is what its capabilities say, and no evidence.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from fleet.protocol.errors import MalformedError

CAPABILITY = "shadow"
CPU_SHARE = 0.05


class Shadow(Struct, frozen=True, kw_only=True):
    """The limits of shadowing on a device: on average `cpu_share` of one core, measured by the shadowing process."""

    cpu_share: float = CPU_SHARE


class ShadowCounts(Struct, frozen=True, kw_only=True):
    """Requests that a device answered with release `old`, and had answered by `new` beside it, in one window.

    `agree` and `differ` count distinct inputs by whether both answers are the same, as the model's task says; one that
    `new` did not answer, or not with finite numbers, differs. `repeats` came again. `keys` are the inputs' (see
    `fleet.protocol.pairing`), those that agree first. `non_finite` and `failed` count inputs that `new` answered with
    NaN or infinity, or not at all, where `old` answered; `crashed` how often the process that runs it ended of itself;
    `dropped` requests of which no copy was compared, since the processor's share was spent. `old_us` and `new_us` are
    how long both took for the compared ones, in microseconds. `reason` is why the device compares nothing, empty while
    it does: a word as in `ModelReport`.
    """

    rollout: str
    attempt: int
    old: int
    new: int
    agree: int = 0
    differ: int = 0
    repeats: int = 0
    keys: bytes = b""
    non_finite: int = 0
    failed: int = 0
    crashed: int = 0
    dropped: int = 0
    old_us: int = 0
    new_us: int = 0
    reason: str = ""


def check_shadow(shadow: Shadow, model: str) -> None:
    """Raise MalformedError unless the share of a core is one."""
    if not (isfinite(shadow.cpu_share) and 0.0 < shadow.cpu_share <= 1.0):
        what = f"model {model!r}: rollout.shadow.cpu_share is {shadow.cpu_share:g}"
        raise MalformedError(what, subject="channel", hint="above 0, at most 1 (one processor core)")


def keyed_apart(rollout: Any) -> Any:
    """The rollout as its shadow stage names inputs: no input is linked to the audited pairs of later stages, or taken
    for a repeat there."""
    return msgspec.structs.replace(rollout, id=f"{rollout.id}/shadow")

"""The number of devices that may lie together without deciding anything. Pure.

A device with valid credentials can say what it likes, and several can agree on it. Evidence is therefore judged without
those that speak the loudest for a verdict (`bets.pooled`): where no more devices than that lie together, what is left
is at most what the honest ones show, so the bound on false verdicts holds whatever the others say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

SHARE = 0.1  # of a cohort
FEW = 5  # devices: of fewer, two are too many to do without


def colluders(devices: int, share: float = SHARE) -> int:
    """Return how many devices of a cohort decide nothing together: none of one, one of fewer than `FEW`, two of more,
    and `share` of a large one.

    Args:
        devices: of the cohort, whether they say something or not.
        share: of them that may lie together, in [0, 1).
    """
    if devices < 2:
        return 0
    return max(2 if devices >= FEW else 1, math.ceil(share * devices - 1e-9))


def notes(devices: int, share: float = SHARE) -> Iterator[str]:
    """Yield how many devices of a cohort of several have to bring evidence, and where fewer than may lie decide."""
    nothing = colluders(devices, share)
    alone = "one decides nothing" if nothing == 1 else f"{nothing} decide nothing together"
    yield f"at least {nothing + 1} of the first stage's {devices} devices must bring audited inputs: {alone}"
    if devices < FEW:
        yield f"of fewer than {FEW} devices two that lie together can decide: a first stage of {FEW} holds against them"

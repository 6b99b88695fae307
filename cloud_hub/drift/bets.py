"""One-sided bets on a share in [0, 1] whose mean is to stay under a margin. Pure.

The payoff of a share x against the margin m is 1 + s (x - m) / m, which is never negative and has a mean of at most 1
while the mean of x, given what came before, is at most m, for each stake s < 1. A CUSUM of such e-values, mixed over
the stakes, raises a false alarm after a mean time of its threshold or more, in windows, however these depend on one
another.

Source: Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", NEJSDS 2023.
"""

from __future__ import annotations

import math

import numpy as np

STAKES = (0.05, 0.2, 0.5, 0.9)
NOTHING = (0.0,) * len(STAKES)


def bet(logs: tuple[float, ...], share: float, margin: float) -> tuple[float, ...]:
    """Return the logarithms of the e-values after one more share.

    Args:
        logs: those before, one per stake.
        share: in [0, 1].
        margin: the share that is tolerated, in (0, 1).
    """
    gain = (min(max(share, 0.0), 1.0) - margin) / margin
    return tuple(max(log, 0.0) + math.log1p(stake * max(gain, -1.0)) for log, stake in zip(logs, STAKES, strict=True))


def evidence(logs: tuple[float, ...]) -> float:
    """The log e-value of the mixture."""
    return float(np.logaddexp.reduce(logs) - math.log(len(logs)))


def limit(budget_days: float, windows_per_day: float, tests: int) -> float:
    """Compute the evidence that raises an alarm.

    Args:
        budget_days: in so many days one false alarm at most.
        windows_per_day: of all devices together.
        tests: on each window.
    """
    return math.log(max(budget_days * windows_per_day * max(tests, 1), 20.0))

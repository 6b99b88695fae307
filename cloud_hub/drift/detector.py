"""A mean of bounded values against its record: what the bets of `meaning` have in common. Pure.

Bets on single windows form an e-detector, a CUSUM of e-values, whose mean time to a false alarm is at least the
threshold, in windows, whatever their distribution and however they depend on one another, as long as each conditional
mean keeps to the null.

Sources: Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", NEJSDS 2023;
Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2024.
"""

from __future__ import annotations

import math

STAKES = (0.1, 0.3, 0.6, 0.9)  # shares of the capital that may be lost in one window


def threshold(days: float, windows_per_day: float) -> float:
    """The log statistic that raises an alarm: at most one false alarm in `days`, all devices together."""
    return math.log(max(days * windows_per_day, 20.0))

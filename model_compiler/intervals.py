"""Intervals of shares, in closed form. Pure."""

from __future__ import annotations

import math

TAIL = 0.025  # of each of two bounds that hold together with 95 % confidence


def most_lost(lost: int, won: int, total: int) -> float:
    """Return the largest share that is lost on balance, see `metrics.Metric.most_points`.

    Args:
        lost: rows that only the reference answers right.
        won: rows that only the variant answers right.
        total: all rows.
    """
    from scipy.stats import beta

    most = 1.0 if lost == total else float(beta.ppf(1 - TAIL, lost + 1, total - lost))
    least = 0.0 if won == 0 else float(beta.ppf(TAIL, won, total - won + 1))
    return most - least


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Compute Wilson's score interval for a proportion (95 % by default).

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share = hits / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)

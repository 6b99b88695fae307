"""Bets on counts: what each device gains by them, and what the gains of all devices prove together.

Fair or losing while the null hypothesis holds, so that the capital won is evidence against it; see `evidence`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[Any]
STAKES = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])  # fractions of the largest fair stake
RESERVE = 0.2  # of each device's stake that is never bet
CAP = 0.8  # of the threshold's logarithm that a single device can bring beside others
LARGEST = 1e12  # what an e-value is reported as at most


def harm_gains(only_old: Counts, only_new: Counts, *, reserve: float = RESERVE) -> Floats:
    """Compute each device's gains in the bets against "the new release wins at least half of the discordant pairs".

    Args:
        only_old, only_new: (…, devices) counts.
        reserve: share of the stake that is never bet.

    Returns:
        (…, devices, stakes) logarithms, none below that of the reserve.
    """
    return with_reserve(_per_stake(only_old, np.log1p(STAKES)) + _per_stake(only_new, np.log1p(-STAKES)), reserve)


def health_gains(
    only_old: Counts, only_new: Counts, same: Counts, margin: float, *, reserve: float = RESERVE
) -> Floats:
    """Compute each device's gains in the bets against "the share only_old - only_new of pairs is at least `margin`".

    Args:
        only_old, only_new, same: (…, devices) counts; `same` are pairs both right or both wrong.
        margin: net loss per request that is no longer tolerable, in (0, 1).
        reserve: share of the stake that is never bet.

    Returns:
        (…, devices, stakes) logarithms, none below that of the reserve.
    """
    stakes = STAKES / (1.0 - margin)
    return with_reserve(
        _per_stake(only_old, np.log1p(stakes * (margin - 1.0)))
        + _per_stake(only_new, np.log1p(stakes * (margin + 1.0)))
        + _per_stake(same, np.log1p(stakes * margin)),
        reserve,
    )


def excess_gains(differ: Counts, same: Counts, margin: float, *, reserve: float = RESERVE) -> Floats:
    """Compute the gains of each device in the bets against "the share `differ` of all inputs is at most `margin`".

    Args:
        differ, same: (…, devices) counts.
        margin: in (0, 1).
        reserve: share of the stake that is never bet.

    Returns:
        (…, devices, stakes) logarithms, none below that of the reserve.
    """
    gains = _per_stake(differ, np.log1p(STAKES * (1.0 / margin - 1.0))) + _per_stake(same, np.log1p(-STAKES))
    return with_reserve(gains, reserve)


class Bets(NamedTuple):
    """The bets of devices, as in `harm_gains` and `health_gains`, and the largest logarithm that one of them brings,
    however many there are (None: as `weigh` has it)."""

    harm: Callable[[Counts, Counts], Floats]
    health: Callable[[Counts, Counts, Counts, float], Floats]
    cap: float | None = None


AUDITED = Bets(harm_gains, health_gains)


def pooled(gains: Floats, *, cap: float | Floats = math.inf) -> Floats:
    """The log e-value of all devices together: the product over devices, the mean over stakes.

    Args:
        gains: (…, devices, stakes) of `harm_gains` or `health_gains`.
        cap: largest logarithm that one device brings; (devices, 1) of each.

    Returns:
        (…,) logarithms.
    """
    total: Floats = np.logaddexp.reduce(np.minimum(gains, cap).sum(axis=-2), axis=-1) - math.log(len(STAKES))
    return total


def beside(of_devices: Floats, of_disputed: Floats, cap: float) -> Floats:
    """The log e-value of devices, of which each brings `cap` at most, and of disputed inputs, which only take from it.

    Args:
        of_devices: (devices, stakes) gains.
        of_disputed: (1, stakes) gains without a reserve: a loss that somebody disputes is no smaller for it.
    """
    caps = np.full((len(of_devices) + 1, 1), cap)
    caps[-1] = 0.0
    return pooled(np.concatenate([of_devices, of_disputed]), cap=caps)


def _per_stake(counts: Counts, gain: Floats) -> Floats:
    product: Floats = np.asarray(counts, np.float64)[..., None] * gain
    return product


def with_reserve(gains: Floats, reserve: float = RESERVE) -> Floats:
    """Logarithms of what a device gains where its reserve is never bet."""
    if not reserve:
        return gains
    found: Floats = np.logaddexp(math.log(reserve), math.log1p(-reserve) + gains)
    return found


def _bounded(log_e: float) -> float:
    return min(math.exp(min(log_e, 30.0)), LARGEST)

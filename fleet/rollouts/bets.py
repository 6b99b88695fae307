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
    """The bets of devices, as in `harm_gains` and `health_gains`, and the largest logarithm that one of them brings."""

    harm: Callable[[Counts, Counts], Floats]
    health: Callable[[Counts, Counts, Counts, float], Floats]
    cap: float = math.inf


AUDITED = Bets(harm_gains, health_gains)


def pooled(gains: Floats, *, cap: float = math.inf, without: int = 0) -> Floats:
    """The log e-value of all devices together: the product over devices, the mean over stakes.

    Of each stake the `without` devices that gain most by it are left out. The e-value that any others have without as
    many of them is no smaller, whoever these are.

    Args:
        gains: (…, devices, stakes) of `harm_gains` or `health_gains`.
        cap: largest logarithm that one device brings.
        without: devices that may not decide.

    Returns:
        (…,) logarithms.
    """
    return _mixed(_remaining(gains, cap, without))


def beside(of_devices: Floats, of_disputed: Floats, *, cap: float = math.inf, without: int = 0) -> Floats:
    """The log e-value of devices, as `pooled` has it, and of disputed inputs, which only take from it.

    Args:
        of_devices: (devices, stakes) gains.
        of_disputed: (1, stakes) gains without a reserve: a loss that somebody disputes is no smaller for it.
        cap, without: as in `pooled`.
    """
    return _mixed(_remaining(of_devices, cap, without) + np.minimum(of_disputed, 0.0).sum(axis=-2))


def _remaining(gains: Floats, cap: float, without: int) -> Floats:
    """The sums over devices, (…, stakes), less the largest gains of each stake."""
    capped = gains if cap == math.inf else np.minimum(gains, cap)
    kept = max(0, gains.shape[-2] - without)
    if kept == gains.shape[-2]:
        found: Floats = capped.sum(axis=-2)
        return found
    by_stake = np.swapaxes(capped, -1, -2).copy()  # its devices lie side by side, which is what a partition wants
    if kept:
        by_stake.partition(kept, axis=-1)
    found = by_stake[..., :kept].sum(axis=-1) + np.minimum(by_stake[..., kept:], 0.0).sum(axis=-1)
    return found


def _mixed(log_e: Floats) -> Floats:
    mean: Floats = np.logaddexp.reduce(log_e, axis=-1) - math.log(len(STAKES))
    return mean


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

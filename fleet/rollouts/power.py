"""The number of distinct audited inputs that a verdict takes, by rollouts played through the guard's own bets.

Two releases are played many times over: one that loses nothing, and one that loses the margin. Both differ from the
release before on `DIFFER` of the inputs besides. The number is the smallest that judges the first healthy, and stops
the second before it was ever judged healthy, in at least `POWER` of all plays each. The draws have a fixed seed, so
that the same policy and devices give the same number everywhere.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from fleet.rollouts import collusion, matching
from fleet.rollouts.bets import AUDITED, pooled

POWER = 0.95
DIFFER = 0.04  # of the inputs, half of them each way
PLAYS, LEAST_PLAYS = 200, 40
PLAYED = 1600  # devices of all plays together, where that leaves enough of these
STEP = 1.1  # from one look to the next, as a factor of the pairs
SIZES = (*range(1, 11), 15, 20, 30, 50, 100, 200, 400)  # devices that are played: the next larger of these, or the last
MOST_MATCHED = 20  # the same of matched pairs, of which each device brings less
MOST_PAIRS = 30_000  # beyond, there is no number
SEED = 0x65766964656E6365

Floats = npt.NDArray[np.float64]


def pairs_needed(
    *, margin: float, alpha: float, devices: int, matched: bool = False, colluders: float = collusion.SHARE
) -> int | None:
    """Distinct audited inputs that a verdict takes, all devices of the cohort together.

    Of a large cohort each device has to bring some, since a share of them decides nothing: so the number grows with the
    devices beyond those that are played.

    Args:
        margin, alpha, colluders: of the guard's policy.
        devices: that share the inputs out evenly, at least 1.
        matched: pairs are those of `matching`, and `devices` the fewer ones of cohort and control.

    Returns:
        The number, or None when `MOST_PAIRS` do not suffice.
    """
    if matched:
        return _play(margin, alpha, min(max(1, devices), MOST_MATCHED), None)
    played = next((size for size in SIZES if size >= devices), SIZES[-1])
    found = _play(margin, alpha, played, colluders)
    return found if found is None or devices <= played else math.ceil(found * devices / played)


@lru_cache(maxsize=64)
def _play(margin: float, alpha: float, played: int, colluders: float | None) -> int | None:
    rng = np.random.default_rng(SEED)
    good, bad = (_Plays(played, loss, margin, alpha, colluders) for loss in (0.0, margin))
    pairs, before = max(20, played), 0
    while pairs <= MOST_PAIRS:
        for plays in (good, bad):
            plays.go_on(pairs - before, rng)
        if good.healthy.mean() >= POWER and bad.harmful.mean() >= POWER:
            return pairs
        before, pairs = pairs, max(pairs + 1, math.ceil(pairs * STEP))
    return None


class _Plays:
    """Rollouts of one release; each is judged at every look until it has its verdict. Without a share of `colluders`
    they are those of matched pairs."""

    def __init__(self, devices: int, loss: float, margin: float, alpha: float, colluders: float | None) -> None:
        matched = colluders is None
        differ = matching.DIFFER if matched else DIFFER
        loss = min(loss, 1.0 - differ)
        self._shares = np.array([differ / 2 + loss, differ / 2, 1.0 - differ - loss])
        self._bets = matching.MATCHED if matched else AUDITED
        self._colluding = 0 if colluders is None else collusion.colluders(devices, colluders)
        self._devices, self._margin, self._alpha = devices, margin, alpha
        self._counts = np.zeros((min(PLAYS, max(LEAST_PLAYS, PLAYED // devices)), devices, 3))
        self.healthy, self.harmful = np.zeros((2, len(self._counts)), bool)
        self._first = 0  # whose turn it is when the pairs do not share out evenly

    def go_on(self, fresh: int, rng: np.random.Generator) -> None:
        """`fresh` more inputs for the devices in turn, then a look."""
        each = np.full(self._devices, fresh // self._devices)
        late = (self._first + np.arange(fresh % self._devices)) % self._devices
        each[late] += 1
        self._first = (self._first + fresh) % self._devices
        self._counts += rng.multinomial(each, self._shares, size=self._counts.shape[:2])
        harm, health = math.log(2 / self._alpha), math.log(1 / self._alpha)
        open_ = np.flatnonzero(~(self.healthy | self.harmful))
        old, new, same = np.moveaxis(self._counts[open_], -1, 0)
        together = partial(pooled, cap=self._bets.cap, without=self._colluding)
        lost = together(self._bets.harm(old, new)) >= harm
        well = together(self._bets.health(old, new, same, self._margin)) >= health
        self.harmful[open_] = lost
        self.healthy[open_] = well & ~lost

"""The number of distinct audited inputs that a verdict takes, by rollouts played through the guard's own bets.

Two releases are played many times over: one that loses nothing, and one that loses the margin. Both differ from the
release before on `DIFFER` of the inputs besides. The number is the smallest that judges the first healthy, and stops
the second before it was ever judged healthy, in at least `POWER` of all plays each. The draws have a fixed seed, so
that the same policy and devices give the same number everywhere.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fleet.rollouts import matching
from fleet.rollouts.bets import AUDITED, CAP, pooled

POWER = 0.95
DIFFER = 0.04  # of the inputs, half of them each way
PLAYS = 200
STEP = 1.1  # from one look to the next, as a factor of the pairs
MOST_DEVICES = 8  # that are played; more share the pairs out more thinly, which changes little
MOST_MATCHED = 20  # the same of matched pairs, of which each device brings less
MOST_PAIRS = 30_000  # beyond, there is no number
SEED = 0x65766964656E6365

Floats = npt.NDArray[np.float64]


def pairs_needed(*, margin: float, alpha: float, devices: int, matched: bool = False) -> int | None:
    """Distinct audited inputs that a verdict takes, all devices of the cohort together.

    Args:
        margin, alpha: of the guard's policy.
        devices: that share the inputs out evenly, at least 1.
        matched: pairs are those of `matching`, and `devices` the fewer ones of cohort and control.

    Returns:
        The number, or None when `MOST_PAIRS` do not suffice.
    """
    most = MOST_MATCHED if matched else MOST_DEVICES
    return _play(margin, alpha, min(max(1, devices), most), matched)  # a large stage is played once, and not each size


@lru_cache(maxsize=64)
def _play(margin: float, alpha: float, played: int, matched: bool) -> int | None:
    rng = np.random.default_rng(SEED)
    good, bad = (_Plays(played, loss, margin, alpha, matched=matched) for loss in (0.0, margin))
    pairs, before = 20, 0
    while pairs <= MOST_PAIRS:
        for plays in (good, bad):
            plays.go_on(pairs - before, rng)
        if good.healthy.mean() >= POWER and bad.harmful.mean() >= POWER:
            return pairs
        before, pairs = pairs, max(pairs + 1, math.ceil(pairs * STEP))
    return None


class _Plays:
    """`PLAYS` rollouts of one release; each is judged at every look until it has its verdict."""

    def __init__(self, devices: int, loss: float, margin: float, alpha: float, *, matched: bool) -> None:
        differ = matching.DIFFER if matched else DIFFER
        loss = min(loss, 1.0 - differ)
        self._shares = np.array([differ / 2 + loss, differ / 2, 1.0 - differ - loss])
        self._matched = matched
        self._devices, self._margin, self._alpha = devices, margin, alpha
        self._counts = np.zeros((PLAYS, devices, 3))
        self.healthy, self.harmful = np.zeros(PLAYS, bool), np.zeros(PLAYS, bool)
        self._first = 0  # whose turn it is when the pairs do not share out evenly

    def go_on(self, fresh: int, rng: np.random.Generator) -> None:
        """`fresh` more inputs for the devices in turn, then a look."""
        each = np.full(self._devices, fresh // self._devices)
        late = (self._first + np.arange(fresh % self._devices)) % self._devices
        each[late] += 1
        self._first = (self._first + fresh) % self._devices
        self._counts += rng.multinomial(each, self._shares, size=(PLAYS, self._devices))
        old, new, same = np.moveaxis(self._counts, -1, 0)
        harm, health = math.log(2 / self._alpha), math.log(1 / self._alpha)
        caps = (CAP * harm, CAP * health) if self._devices > 1 else (math.inf, math.inf)
        bets = matching.MATCHED if self._matched else AUDITED
        caps = caps if bets.cap is None else (bets.cap, bets.cap)
        lost = pooled(bets.harm(old, new), cap=caps[0]) >= harm
        well = pooled(bets.health(old, new, same, self._margin), cap=caps[1]) >= health
        self.harmful |= lost & ~self.healthy
        self.healthy |= well & ~self.harmful

"""May a new model take over, and may it judge others? Old and new answer the same held-out human labels; pure.

Refused is what is worse by more than chance. Only the inputs on which one is better than the other, by the task's
agreement with the label, say who is better. Were both equally good, each such input would fall to either side like a
fair coin, so the number that the new one lost has a binomial distribution: the exact one-sided McNemar test (McNemar,
1947, "Note on the sampling error of the difference between correlated proportions"), which is the sign test where
agreement is a share. One label more or less is chance; four lost and none won is not. Where a task says nothing of one
input (embeddings, custom tasks) its metric is drawn again over the inputs (paired bootstrap, Efron, 1979).

A model that is not refused is not shown to be good: few labels refuse nobody. It may audit others once it is shown, at
`LEVEL`, to be less than `MARGIN` worse than the old one. For answers that are right or wrong that is an exact
unconditional test (Hsueh, Liu and Chen, "Unconditional exact tests for equivalence or noninferiority for paired binary
endpoints", 2001): results are ordered by the score of Tango ("Equivalence test and confidence interval for the
difference in proportions for the paired-sample design", 1998), and what is as good as this one or better must be rare
for a model that is worse by the margin, however many it wins. For shares it is a test by betting against "worse by the
margin" (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2023), which holds for any
distribution. For whole sets it is the bootstrap's quantile, which holds for many labels: on a few it draws the same
rows again, and below `LEAST` it shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil, comb, log
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Rows = npt.NDArray[np.int64]
DRAWS = 400
REFUSE_BELOW = 0.1  # a mild level on purpose: a wrong refusal costs labels, a bad teacher misleads the guard
MARGIN = 0.05  # of rightness, by which an auditor may be worse than the one before
LEVEL = 0.95
WINS = 96  # shares of wins that a model worse by the margin may have, from none on
LEAST = ceil(log(1 - LEVEL) / log(1 - MARGIN))  # labels, 59: on fewer, one that is worse may well lose none
STAKES = np.linspace(0.05, 0.95, 19)  # of what can be lost at a bet


class Comparison(Struct, frozen=True, kw_only=True):
    """Two models on `labels` inputs. `lost`: the old one is better; `won`: the new one; both 0 where only whole sets
    are compared.

    `chance` is how probable at least `lost` losses are if both are equally good. `shown`: the new one is less than
    `MARGIN` worse, at `LEVEL`.
    """

    labels: int
    old: float
    new: float
    lost: int
    won: int
    chance: float
    shown: bool

    @property
    def refused(self) -> bool:
        """Is the new one worse by more than chance?"""
        return self.chance < REFUSE_BELOW


def compare(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> Comparison:
    """Compare how right each is on each of n > 0 inputs; both arrays are bool, or numbers in [0, 1], (n,)."""
    lost, won = int((new < old).sum()), int((new > old).sum())
    decided = lost + won
    chance = sum(comb(decided, k) for k in range(lost, decided + 1)) / 2**decided
    differences = new.astype(np.float64) - old
    counted = bool(np.isin(differences, (-1.0, 0.0, 1.0)).all())
    return Comparison(
        labels=len(old),
        old=float(old.mean()),
        new=float(new.mean()),
        lost=lost,
        won=won,
        chance=chance,
        shown=_shown_by_counts(lost, won, len(old), MARGIN) if counted else _shown_by_bets(differences),
    )


def compare_sets(old: Callable[[Rows], float], new: Callable[[Rows], float], labels: int) -> Comparison:
    """Compare two models by a metric, higher is better, over rows of the n = `labels` inputs."""
    draws = [np.random.default_rng(seed).integers(0, labels, labels) for seed in range(DRAWS)]
    drawn = np.array([(old(rows), new(rows)) for rows in draws])
    every = np.arange(labels)
    before = old(every)
    within = np.mean(drawn[:, 1] > drawn[:, 0] - MARGIN * abs(before))
    return Comparison(
        labels=labels,
        old=before,
        new=new(every),
        lost=0,
        won=0,
        chance=float(np.mean(drawn[:, 1] >= drawn[:, 0])),
        shown=labels >= LEAST and bool(within >= LEVEL),
    )


@lru_cache(4096)
def _shown_by_counts(lost: int, won: int, n: int, margin: float) -> bool:
    """Tell whether a model that loses `margin` more than it wins does as well as this one in at most 1 - `LEVEL` of
    cases, at each of `WINS` shares of wins."""
    from scipy.stats import binom

    wins = np.arange(n + 1)
    least = float(_score(np.array(lost), np.array(won), n, margin)) - 1e-9
    # With these wins, as many losses as are as good as what was seen: the score falls with each. -1: not even none.
    most = _most_lost(wins, n, margin, least)
    for share in np.linspace(0.0, (1 - margin) / 2, WINS):
        losses = min((share + margin) / (1 - share), 1.0)  # of those that are not won
        if binom.pmf(wins, n, share) @ binom.cdf(most, n - wins, losses) > 1 - LEVEL:
            return False
    return True


def _most_lost(wins: Rows, n: int, margin: float, least: float) -> Rows:
    """By bisection for all at once: one by one takes minutes for some ten thousand labels."""
    low, high = np.full(len(wins), -1), n - wins
    while (low < high).any():
        middle = (low + high + 1) // 2
        good = _score(middle, wins, n, margin) >= least
        low, high = np.where(good, middle, low), np.where(good, high, middle - 1)
    return low


def _score(lost: Rows, won: Rows, n: int, margin: float) -> npt.NDArray[np.float64]:
    """Tango's score of "the new one is right in `margin` fewer of all cases", its variance under that claim."""
    b = -lost - won + (2 * n - lost + won) * margin
    c = -won * margin * (1 - margin)
    both = (np.sqrt(b * b - 8 * n * c) - b) / (4 * n)  # the share of wins under the claim
    found: npt.NDArray[np.float64] = (n * margin - (lost - won)) / np.sqrt(n * (2 * both + margin * (1 - margin)))
    return found


def _shown_by_bets(differences: npt.NDArray[np.float64]) -> bool:
    """Bets on "worse by less than the margin", fair or losing where that is wrong: the mean of all stakes' wealth.

    `differences` lie in [-1, 1], so a bet on difference + margin can lose at most 1 - margin.
    """
    gains = np.log1p(STAKES[:, None] / (1 - MARGIN) * (differences + MARGIN)[None, :]).sum(axis=1)
    return bool(np.logaddexp.reduce(gains) - np.log(len(STAKES)) >= -np.log(1 - LEVEL))

"""May a new model take over? Old and new answer the same held-out human labels; pure.

Only the inputs on which one is better than the other, by the task's agreement with the label, say who is better. Were
both equally good, each such input would fall to either side like a fair coin, so the number that the new one lost has a
binomial distribution: the exact one-sided McNemar test (McNemar, 1947, "Note on the sampling error of the difference
between correlated proportions"), which is the sign test where agreement is a share. One label more or less is chance;
four lost and none won is not. Where a task says nothing of one input (embeddings, custom tasks) its metric is drawn
again over the inputs (paired bootstrap, Efron, 1979).
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Rows = npt.NDArray[np.int64]
DRAWS = 400
REFUSE_BELOW = 0.1  # a mild level on purpose: a wrong refusal costs labels, a bad teacher misleads the guard


class Comparison(Struct, frozen=True, kw_only=True):
    """Two models on `labels` inputs. `lost`: the old one is better; `won`: the new one; both 0 where only whole sets
    are compared.

    `chance` is how probable at least `lost` losses are if both are equally good.
    """

    labels: int
    old: float
    new: float
    lost: int
    won: int
    chance: float

    @property
    def refused(self) -> bool:
        """Is the new one worse by more than chance?"""
        return self.chance < REFUSE_BELOW


def compare(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> Comparison:
    """Compare how right each is on each of n > 0 inputs; both arrays are bool, or numbers in [0, 1], (n,)."""
    lost, won = int((new < old).sum()), int((new > old).sum())
    decided = lost + won
    chance = sum(comb(decided, k) for k in range(lost, decided + 1)) / 2**decided
    return Comparison(labels=len(old), old=float(old.mean()), new=float(new.mean()), lost=lost, won=won, chance=chance)


def compare_sets(old: Callable[[Rows], float], new: Callable[[Rows], float], labels: int) -> Comparison:
    """Compare two models by a metric, higher is better, over rows of the n = `labels` inputs."""
    draws = [np.random.default_rng(seed).integers(0, labels, labels) for seed in range(DRAWS)]
    chance = float(np.mean([new(rows) >= old(rows) for rows in draws]))
    every = np.arange(labels)
    return Comparison(labels=labels, old=old(every), new=new(every), lost=0, won=0, chance=chance)

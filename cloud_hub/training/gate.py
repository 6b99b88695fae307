"""May a new teacher take over? Both answer the same held-out human labels; pure.

Only the inputs on which one is right and the other wrong say who is better. Were both equally good, each
such input would fall to either side like a fair coin, so the number that the new one lost has a binomial
distribution: the exact one-sided McNemar test (McNemar, 1947, "Note on the sampling error of the
difference between correlated proportions"). One label more or less is chance; four lost and none won is not.
"""

from __future__ import annotations

from math import comb

import numpy as np
import numpy.typing as npt
from msgspec import Struct

REFUSE_BELOW = 0.1  # a mild level on purpose: a wrong refusal costs labels, a bad teacher misleads the guard


class Comparison(Struct, frozen=True, kw_only=True):
    """Two teachers on `labels` inputs. `lost`: only the old one is right; `won`: only the new one.

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


def compare(old_right: npt.NDArray[np.bool_], new_right: npt.NDArray[np.bool_]) -> Comparison:
    """Compare who is right on each of n > 0 inputs; both arrays are bool (n,)."""
    lost, won = int((old_right & ~new_right).sum()), int((new_right & ~old_right).sum())
    decided = lost + won
    chance = sum(comb(decided, k) for k in range(lost, decided + 1)) / 2**decided
    return Comparison(
        labels=len(old_right), old=float(old_right.mean()), new=float(new_right.mean()),
        lost=lost, won=won, chance=chance,
    )  # fmt: skip

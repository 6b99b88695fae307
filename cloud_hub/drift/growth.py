"""Features that only grow, or only fall: counters, clocks, odometers, the rest of a supply. Pure.

No baseline holds for such a feature: each new value lies beyond all that were seen. It is recognised by how the means
of a device's windows follow one another over its first period: nearly all steps go one way (a counter that is set back
now and then included), or they lie on a line. A sensor that ages, or one that follows the day, does neither. One device
of many whose feature does is odd by itself, and goes on being judged; a feature that does so on half of the devices is
of that kind.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from msgspec import Struct

from cloud_hub.drift.baseline import BLOCKS

MOVES = BLOCKS // 2  # steps, one way or the other, below which nothing is said: a mode that was switched is no counter
ONE_WAY = 0.9  # of the steps that go somewhere
LINE = 0.97  # correlation with time
HOPELESS = 0.8  # of both, below which a feature is not looked at any more
NEWEST = 600  # windows; of more, older ones count less and less, so that a feature may come back
STILL = 1e-6  # of a value: the rounding of float32
FEATURES = 64  # of one device that are looked at


class Climb(Struct, frozen=True, kw_only=True):
    """The means of a device's windows of one feature: how many `steps` there were between them, of which `ups` and
    `downs`, the first and the last of them, and sums over their numbers and values, from the first on."""

    steps: float = 0.0
    ups: float = 0.0
    downs: float = 0.0
    number: int = 0
    first: float = 0.0
    last: float = 0.0
    sums: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)

    @property
    def one_way(self) -> float:
        """The share of the steps that went somewhere, and went the way that most did; 0 where too few did."""
        moves = self.ups + self.downs
        return max(self.ups, self.downs) / moves if moves >= MOVES else 0.0

    @property
    def line(self) -> float:
        """The closeness of the means to a line in time: the size of their correlation."""
        if self.steps < BLOCKS:
            return 0.0
        at, value, squares, times, products = (total / self.steps for total in self.sums)
        spread = (squares - at * at) * (times - value * value)
        return abs(products - at * value) / math.sqrt(spread) if spread > 0 else 0.0

    @property
    def grows(self) -> bool:
        """True if it only grows, or only falls, as far as its windows tell."""
        return self.steps >= BLOCKS and (self.one_way >= ONE_WAY or self.line >= LINE)

    @property
    def hopeless(self) -> bool:
        """True if enough was seen to rule out that it only grows or falls."""
        return self.steps >= BLOCKS and self.one_way < HOPELESS and self.line < HOPELESS


def begun(mean: float) -> Climb:
    """With the mean of a first window."""
    return Climb(first=mean, last=mean)


def followed(climb: Climb, mean: float) -> Climb:
    """With the mean of one more window."""
    kept = 0.5 if climb.steps >= NEWEST else 1.0
    step, least = mean - climb.last, STILL * max(abs(mean), abs(climb.last))
    number, value = climb.number + 1, mean - climb.first
    at, total, squares, times, products = (kept * one for one in climb.sums)
    return Climb(
        steps=kept * climb.steps + 1,
        ups=kept * climb.ups + (step > least),
        downs=kept * climb.downs + (step < -least),
        number=number,
        first=climb.first,
        last=mean,
        sums=(
            at + number,
            total + value,
            squares + float(number) ** 2,
            times + value * value,
            products + number * value,
        ),
    )


def left_out(growing: Mapping[str, int], devices: int, before: Collection[str]) -> set[str]:
    """The features that only grow.

    Args:
        growing: by feature, on how many devices it does.
        devices: how many were looked at for long enough.
        before: what only grew until now; such a feature comes back when it grows on less than a quarter of them.
    """
    return {
        name
        for name, count in growing.items()
        if count and (2 * count >= devices or (name in before and 4 * count >= devices))
    }

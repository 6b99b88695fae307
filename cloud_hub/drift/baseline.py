"""The baseline of one stream: its mean, the spread of its blocks, and the length of its windows' dependence. Pure.

A stream is a device, a group of devices or the fleet. Its baseline is a period. `History` keeps the period in bounded
memory: single windows first, and means over ever longer parts of a day once there are more than fit. `fit` learns the
dependence from it: the shortest block whose means no longer add up faster than independent ones would (a variance
ratio). A baseline that covers at least 30 such blocks is *steady*; before that nothing is known about how far the
stream wanders by itself, and the test is *provisional*: it answers only to windows far outside of all that were seen,
and promises nothing.

Sources: Lo & MacKinlay, "Stock market prices do not follow random walks" (variance ratios), Review of Financial Studies
1, 1988; Carlstein, "The use of subseries values for estimating the variance of a general statistic", Annals of
Statistics 14, 1986; Laurent & Massart, "Adaptive estimation of a quadratic functional", Annals of Statistics 28, 2000.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fleet.protocol.durations import DAY_S

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

ROWS = 160  # of a history
BLOCKS = 30  # that a steady baseline covers at least
FINEST = 17  # the shortest part of a day is 2**-17 of it, two thirds of a second
TOLERANCE = 0.15  # of the variance ratio, beside its own error
COARSE = 8  # blocks below which a variance ratio says nothing
ERRORS = 2.5  # standard errors of a variance ratio that are no sign of dependence
LEAST = 0.005  # of the distance (root of the squared maximum mean discrepancy); nobody would act on less
FAR = 0.2  # the same before a baseline is steady
FARTHEST = 4 * FAR  # where nothing else bounds it: more is another kind of input
WIDE = 2.0  # times the largest deviation in a baseline, before it is steady
SURE = 0.01  # chance that a baseline's own error is larger than its margin, all streams together


@dataclass(frozen=True)
class Baseline:
    """One stream's baseline. `mean` is (K,), `covariance` (K, K) that of a block's mean, in the basis's coordinates.

    `block_s` is a block's length in seconds, 0 for single windows; `blocks` how many the period covers; `inflation` the
    variance of sums of blocks over that of independent ones, at least 1. `far` and `scale` are the margin and the scale
    (both distances) of the provisional test. `count` is the usual (harmonic mean) number of inputs of a window.
    """

    mean: Floats
    covariance: Floats
    block_s: float
    blocks: int
    inflation: float
    steady: bool
    far: float
    scale: float
    count: float

    def margin(self, share: float, weights: Floats) -> float:
        """Return how far the baseline's own error may lie along its own direction, in standard deviations of a block.

        Args:
            share: of the model's budget that this stream has, in (0, 1].
            weights: (K,) of the coordinates.
        """
        reach = math.sqrt(dimensions(self.covariance, weights)) + math.sqrt(2 * math.log(1 / (SURE * share)))
        return reach * math.sqrt(self.inflation / self.blocks)

    @property
    def caution(self) -> float:
        """The factor on a bet's variance: dependence that is left, and three standard errors of the plug-in one."""
        return self.inflation * (1.1 + 3 * math.sqrt(2 / self.blocks))


class History:
    """The windows of a period, in at most `ROWS` rows of K numbers; rows are in order of time.

    While all fit, a row is a window. Then rows are means over parts of a day, 2**-level of it, each window with the
    same weight.
    """

    def __init__(self, dims: int) -> None:
        self.rows = np.zeros((0, dims))
        self.at = np.zeros(0)  # of a row's first window
        self.sizes = np.zeros(0)  # windows in a row
        self.level = FINEST + 1  # beyond the finest: single windows
        self.windows = 0
        self.inverse_counts = 0.0

    def add(self, row: Floats, at: float, count: int) -> None:
        """Add one window's mean (K,) of `count` inputs, not before the last one's time."""
        self.extend(row[None], np.array([at]), np.array([count]))

    def extend(self, rows: Floats, at: Floats, counts: Numbers) -> None:
        """Add windows: means (n, K), Unix seconds (n,) and numbers of inputs (n,), in order of time."""
        self.rows = np.concatenate([self.rows, rows])
        self.at = np.concatenate([self.at, at])
        self.sizes = np.concatenate([self.sizes, np.ones(len(rows))])
        self.windows += len(rows)
        self.inverse_counts += float((1.0 / counts).sum())
        if self.level <= FINEST:
            self._merge(self.level)
        while len(self.rows) > ROWS and self.level > 0:
            self._merge(self.level - 1)

    @property
    def span_s(self) -> float:
        """From the first row to the last."""
        return float(self.at[-1] - self.at[0]) if len(self.at) else 0.0

    @property
    def count(self) -> float:
        """The harmonic mean of the windows' numbers of inputs."""
        return self.windows / self.inverse_counts if self.windows else 1.0

    def _merge(self, level: int) -> None:
        self.rows, self.at, self.sizes = binned(self.rows, self.at, self.sizes, part_s(level))
        self.level = level


def dimensions(covariance: Floats, weights: Floats) -> float:
    """Effective dimensions of a spread (K, K) in weighted coordinates: tr(S)² / tr(S²)."""
    root = np.sqrt(weights)
    weighted = covariance * root[:, None] * root[None, :]
    return float(np.trace(weighted) ** 2 / max(float(np.sum(weighted**2)), 1e-300))


def part_s(level: int) -> float:
    """The length of a part of a day in seconds; beyond the finest level 0, for single windows."""
    return 0.0 if level > FINEST else DAY_S / 2**level


def binned(rows: Floats, at: Floats, sizes: Floats, length_s: float) -> tuple[Floats, Floats, Floats]:
    """Compute means over parts of the time, weighted by sizes.

    Args:
        rows: (n, K).
        at: (n,) Unix seconds, rising.
        sizes: (n,) the weights.
        length_s: of a part.

    Returns:
        Means (m, K), the first moments of the parts (m,), and their sizes (m,).
    """
    parts = np.floor(at / length_s)
    first = np.flatnonzero(np.concatenate([[True], parts[1:] != parts[:-1]]))
    summed = np.add.reduceat(sizes, first)
    means = np.add.reduceat(rows * sizes[:, None], first, axis=0) / summed[:, None]
    return means, at[first], summed


def fit(history: History, weights: Floats, *, over: bool = True, far: float = 0.0) -> Baseline:
    """A stream's baseline from its history of at least two rows.

    Args:
        weights: (K,) of the coordinates.
        over: whether the period is over; before that a baseline is never steady.
        far: the provisional margin before; it does not become narrower.
    """
    mean = np.average(history.rows, axis=0, weights=history.sizes)
    deviations = history.rows - mean
    ladder = list(_levels(history, deviations, np.sqrt(weights)))
    steady = [(found, length_s, ratio) for found, length_s, ratio in ladder if ratio is not None]
    blocks, length_s, ratio = steady[0] if steady else (*ladder[0][:2], None)
    spread = deviations.T @ deviations / max(len(deviations) - 1, 1)
    away = float(np.sqrt((deviations**2).sum(axis=1).max()))
    return Baseline(
        mean=mean,
        covariance=covariance_of(blocks),
        block_s=length_s,
        blocks=len(blocks),
        inflation=1.0 if ratio is None else max(ratio, 1.0),
        steady=over and bool(steady),
        far=max(far, FAR, WIDE * away),
        scale=math.sqrt(max(float(np.linalg.eigvalsh(spread)[-1]), 1e-12)),
        count=history.count,
    )


def _levels(history: History, deviations: Floats, root: Floats) -> Iterator[tuple[Floats, float, float | None]]:
    """Blocks (n, K) from short to long, their length, and the variance ratio where it is that of independent ones."""
    for level in range(history.level, -1, -1):
        length_s = part_s(level)
        blocks = deviations
        if level != history.level:
            blocks, _, _ = binned(deviations, history.at, history.sizes, length_s)
            if len(blocks) > 0.75 * len(deviations) and level != 0:  # parts as short as the windows themselves
                continue
        ratio, good = variance_ratio(blocks * root)
        yield blocks, length_s, ratio if good and len(blocks) >= BLOCKS else None
        if len(blocks) < BLOCKS:
            return


def variance_ratio(blocks: Floats) -> tuple[float, bool]:
    """Compare the variance of sums of neighbours with that of independent blocks, and tell whether chance explains it.

    Args:
        blocks: (n, K) deviations from their mean, in order of time.

    Returns:
        The largest ratio over 2, 4, 8, … neighbours, and whether each lies within the tolerance.
    """
    n = len(blocks)
    square = float((blocks**2).sum()) / max(n - 1, 1)
    if n < 2 * COARSE or square <= 0:
        return 1.0, square <= 0
    gram = blocks.T @ blocks / (n - 1)
    dimensions = square**2 / float((gram**2).sum())
    worst, good, size = 1.0, True, 2
    sums = np.concatenate([np.zeros((1, blocks.shape[1])), np.cumsum(blocks, axis=0)])
    while n // size >= COARSE:
        moved = sums[size:] - sums[:-size]  # overlapping sums
        # The mean was estimated from the same blocks: n - size + 1 sums lose (1 - size / n) of their variance.
        ratio = float((moved**2).sum()) / (len(moved) * size * square * (1 - size / n))
        error = math.sqrt(4 * size / (3 * n * dimensions))
        worst = max(worst, ratio - error)
        good = good and ratio <= 1 + TOLERANCE + ERRORS * error
        size *= 2
    return worst, good


def covariance_of(blocks: Floats) -> Floats:
    """The blocks' covariance (K, K), with a part of its trace on the diagonal that shrinks with their number.

    What is added makes the test slower, never more eager: directions that few blocks have shown are held possible.
    """
    n, dims = blocks.shape
    sample = blocks.T @ blocks / max(n - 1, 1)
    ridge = dims / (dims + n) * float(np.trace(sample)) / dims
    added: Floats = sample + (ridge + 1e-12) * np.eye(dims)
    return added

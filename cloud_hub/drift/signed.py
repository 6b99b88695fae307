"""Have the inputs moved? Many streams at once: windows in, running evidence out. Pure, vectorised over the streams.

Let m be the mean of a block of a stream's windows less its baseline's, w a running mean of *earlier* m, and S the
covariance of a block's mean. The bet is on the signed projection

    x = (<w, m> - margin · sqrt(w'Sw) - least · |w|) / sqrt(w'Sw)

in coordinates that are weighted, as `basis` says. w knows nothing of m, so x has mean at most 0 and variance 1 while
the stream is as it was. Once it has moved, w turns the way it went and x stays above 0, however small the move:
evidence adds up. `margin` is what the baseline's own finite size can fake, `least` the least effect that matters.
exp(λx - cλ²/2) is bet for several λ and for running means over several horizons, each in a CUSUM of e-values; their
mean is an e-detector, whose mean time to a false alarm is at least its threshold.

Proven (Shin, Ramdas & Rinaldo): the last sentence, for any mixture, when each bet has mean at most 1 given the past.
Simulated (`benchmarks/drift_promises.py`): that it has, with a covariance that is plugged in, an error of the baseline
that is bounded by `margin`, and blocks that the baseline found independent. c, above 1, covers the covariance's error.

A second, provisional bet is made on every single window: far outside of all that the baseline saw. It is the only one
before a baseline is steady, and promises nothing.

Sources: Shekhar & Ramdas, "Nonparametric two-sample testing by betting", IEEE Trans. Information Theory 2023; Shin,
Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", NEJSDS 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from cloud_hub.drift.baseline import LEAST, Baseline

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

HORIZONS = np.array([8.0, 32.0, 256.0, 2048.0])  # blocks
FAST = 16.0  # windows, of the provisional bet
RATES = np.array([0.05, 0.1, 0.2, 0.4, 0.8])  # λ
HIGHEST = 4.0  # of x: one window is one window, whatever it holds
BETS = len(HORIZONS) + 1  # the last is the provisional one


@dataclass
class Bank:
    """n streams, structure of arrays; the first axis of every array is the stream. K coordinates.

    Of the baseline: `mean` (n, K), `covariance` (n, K, K), `block_s`, `margin`, `caution`, `steady`, `far`, `scale` and
    `count` (n,). Of the test: running means `moved` (n, horizons, K) and `fast` (n, K); the open block's sum `open`
    (n, K), its windows `open_windows`, summed variance `open_variance`, largest doubt `open_doubt` and part of the time
    `open_part` (n,); `logs`
    and `since` (n, bets, rates): the evidence and the moment from which it has added up; `blocks` and `windows`
    counted (n,).
    """

    mean: Floats
    covariance: Floats
    block_s: Floats
    margin: Floats
    caution: Floats
    steady: npt.NDArray[np.bool_]
    far: Floats
    scale: Floats
    count: Floats
    moved: Floats
    fast: Floats
    open: Floats
    open_windows: Floats
    open_variance: Floats
    open_doubt: Floats
    open_part: Floats
    logs: Floats
    since: Floats
    blocks: Floats
    windows: Floats

    @classmethod
    def begin(cls, baselines: Sequence[Baseline], shares: Sequence[float], weights: Floats, at: float) -> Bank:
        """Streams without evidence, which begin at `at` (Unix seconds)."""
        n, dims = len(baselines), len(baselines[0].mean)
        paired = list(zip(baselines, shares, strict=True))

        def column(name: str) -> Floats:
            return np.array([getattr(baseline, name) for baseline in baselines], np.float64)

        return cls(
            mean=column("mean"),
            covariance=column("covariance"),
            block_s=column("block_s"),
            margin=np.array([baseline.margin(share, weights) for baseline, share in paired]),
            caution=column("caution"),
            steady=np.array([baseline.steady for baseline in baselines]),
            far=column("far"),
            scale=column("scale"),
            count=column("count"),
            moved=np.zeros((n, len(HORIZONS), dims)),
            fast=np.zeros((n, dims)),
            open=np.zeros((n, dims)),
            open_windows=np.zeros(n),
            open_variance=np.zeros(n),
            open_doubt=np.zeros(n),
            open_part=np.zeros(n),
            logs=np.zeros((n, BETS, len(RATES))),
            since=np.full((n, BETS, len(RATES)), at),
            blocks=np.zeros(n),
            windows=np.zeros(n),
        )

    @property
    def log_e(self) -> Floats:
        """The evidence of each stream (n,): the mixture over bets and rates."""
        return evidence(self.logs)

    @classmethod
    def stack(cls, parts: Sequence[Bank]) -> Bank:
        """The streams of some banks, in their order."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def split(self) -> list[Bank]:
        """A bank for each stream."""
        names = [field.name for field in fields(self)]
        return [Bank(**{name: getattr(self, name)[n : n + 1] for name in names}) for n in range(len(self.mean))]


def evidence(logs: Floats) -> Floats:
    """The mixture of (…, bets, rates) log e-values."""
    flat = logs.reshape(*logs.shape[:-2], -1)
    top = flat.max(axis=-1)
    summed: Floats = top + np.log(np.exp(flat - top[..., None]).mean(axis=-1))
    return summed


def step(
    bank: Bank,
    weights: Floats,
    rows: Floats,
    counts: Floats,
    at: Floats,
    doubts: Floats | float = 0.0,
    least: float = LEAST,
) -> None:
    """Count one window of every stream of the bank.

    Args:
        weights: (K,) of the coordinates.
        rows: (n, K) means in the basis's coordinates.
        counts: (n,) inputs of each window; fewer than usual make its mean less sure.
        at: (n,) Unix seconds.
        doubts: (n,) how far what was expected of a window may be off along its own direction, beside the baseline's own
            error, in standard deviations of a block (see `week`).
        least: the least effect that matters, a distance.
    """
    deviations = rows - bank.mean
    variance = np.maximum(1.0, bank.count / np.maximum(counts, 1.0))
    _bet_far(bank, deviations, variance, at, least)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(bank.block_s > 0, np.floor(at / bank.block_s), bank.open_part + 1)
    # A block is over when a window of a later part comes; one that is late belongs to the open block.
    over = bank.steady & (bank.open_windows > 0) & (part > bank.open_part)
    if over.any():
        _close(bank, weights, np.flatnonzero(over), at, least)
    bank.open += deviations
    bank.open_windows += 1
    bank.open_variance += variance
    bank.open_doubt = np.maximum(bank.open_doubt, doubts)
    bank.open_part = np.maximum(part, bank.open_part)
    bank.windows += 1
    single = np.flatnonzero(bank.steady & (bank.block_s == 0))
    if len(single):  # a block of one window is over at once
        _close(bank, weights, single, at, least)


def _bet_far(bank: Bank, deviations: Floats, variance: Floats, at: Floats, least: float) -> None:
    length = np.linalg.norm(bank.fast, axis=1)
    along = (bank.fast * deviations).sum(axis=1) / np.maximum(length, 1e-12)
    x = (along - np.maximum(bank.far, least)) / (bank.scale * np.sqrt(variance))
    x[length == 0] = -HIGHEST
    place = np.arange(len(x))
    _count(bank, place, len(HORIZONS), x, np.full(len(x), 2.0), at)
    weight = 1 / np.minimum(bank.windows + 1, FAST)
    bank.fast += weight[:, None] * (deviations - bank.fast)


def _close(bank: Bank, weights: Floats, which: Numbers, at: Floats, least: float) -> None:
    """Bet on the open blocks of some streams, and let the running means learn from them."""
    size = bank.open_windows[which]
    block = bank.open[which] / size[:, None]
    variance = bank.open_variance[which] / size
    moved = bank.moved[which]
    weighted = moved * weights
    spread = np.sqrt(np.maximum(((weighted @ bank.covariance[which]) * weighted).sum(axis=2), 1e-24))
    along = (weighted * block[:, None, :]).sum(axis=2)
    away = np.linalg.norm(weighted, axis=2)
    margin = np.hypot(bank.margin[which], bank.open_doubt[which])
    x = (along - least * away) / spread - margin[:, None]
    x /= np.sqrt(variance)[:, None]
    x[away == 0] = -HIGHEST
    for place in range(len(HORIZONS)):
        _count(bank, which, place, x[:, place], bank.caution[which], at)
    weight = 1 / np.minimum(bank.blocks[which, None] + 1, HORIZONS[None, :])
    bank.moved[which] = moved + weight[:, :, None] * (block[:, None, :] - moved)
    bank.blocks[which] += 1
    bank.open[which] = 0.0
    bank.open_windows[which] = 0.0
    bank.open_variance[which] = 0.0
    bank.open_doubt[which] = 0.0


def _count(bank: Bank, which: Numbers, place: int, x: Floats, caution: Floats, at: Floats) -> None:
    gain = RATES[None, :] * np.clip(x, -HIGHEST, HIGHEST)[:, None] - 0.5 * caution[:, None] * RATES[None, :] ** 2
    before = bank.logs[which, place]
    fresh = before <= 0
    bank.since[which, place] = np.where(fresh, at[which][:, None], bank.since[which, place])
    bank.logs[which, place] = np.maximum(before, 0.0) + gain


def limit(budget_days: float, steps_per_day: float, share: float) -> float:
    """The evidence that raises an alarm: at most one false one in `budget_days`, all streams of a model together.

    Args:
        steps_per_day: windows of this stream in a day, as counted.
        share: of the budget that this stream has, in (0, 1].
    """
    return math.log(max(budget_days * steps_per_day / share, 20.0))

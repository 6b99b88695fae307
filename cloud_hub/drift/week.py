"""The shape of a stream's week: what is usual at each part of it, learnt beside a baseline that knows no hours. Pure.

A week (UTC) has 56 slots of three hours. The mean of a stream's windows in one is a *visit* of the slot. `Week` gathers
visits, from windows at which no alarm was open, in bounded memory: each slot's mean, how visits of the same slot vary
from week to week, how neighbouring windows differ, and the last week's visits themselves.

What a slot predicts is the mean of all, and what its day, its hour and the slot itself add to that, each drawn towards
nothing the more, the less it differs beyond chance (empirical Bayes, coordinate by coordinate). Before a visit joins,
it is predicted from earlier weeks, with the slots and with the mean of all alone. Once three weeks are there, and the
slots have predicted whole days better than the mean has, beyond chance, `found` makes a `Shape`: a baseline for what is
left after the slots' means, and for each slot how far its own mean may be off. It is frozen, as every baseline is.

Sources: James & Stein, "Estimation with quadratic loss", Berkeley Symposium 1961; Efron & Morris, "Stein's estimation
rule and its competitors", JASA 1973; Dawid, "Statistical theory: the prequential approach", JRSS-A 1984; Rice,
"Bandwidth choice for nonparametric regression", Annals of Statistics 12, 1984 (variance from neighbours' differences).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cloud_hub.drift.baseline import (
    BLOCKS,
    ERRORS,
    SURE,
    TOLERANCE,
    Baseline,
    covariance_of,
    dimensions,
    variance_ratio,
)
from fleet.protocol.durations import DAY_S

Floats = npt.NDArray[np.float64]

SLOT_S = 10_800.0
SLOTS = 56
HOURS = 8  # slots of a day
ROUNDS = 4
MONDAY = 32  # slots from the epoch, a Thursday, to a Monday
WEEKS = 3  # that are there before a shape is looked for; then four, six, nine, …
FIRST = 8  # second visits, by which it is known how visits vary
DAYS = 7  # that must have been predicted
BEYOND = 3.0  # standard errors by which slots predict better than chance
OFTEN = 1.5  # the same of what days differ among one another
MOST = 4.0  # of a deviation in a coordinate: features are at most one
Packed = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]


class Expected(NamedTuple):
    """Of each slot its `mean` (SLOTS, K), near `overall` (K,) where little is known, and the `variance` (SLOTS, K) of
    that estimate; `within` (K,) is how visits of one slot vary."""

    mean: Floats
    overall: Floats
    variance: Floats
    within: Floats


@dataclass(frozen=True)
class Shape:
    """A week that was found: `offsets` (SLOTS, K) from the baseline's mean, and `doubts` (SLOTS,), how far they may be
    off along their own direction, in standard deviations of a block."""

    offsets: Floats
    doubts: Floats

    def at(self, at: float) -> tuple[Floats, float]:
        """The offset (K,) and the doubt at a time (Unix seconds)."""
        slot = slot_of(int(at // SLOT_S))
        return self.offsets[slot], float(self.doubts[slot])


class Week:
    """A stream's visits, as deviations from its baseline's mean.

    `means` (SLOTS, K) and `visits` (SLOTS,): of each slot; `squares` (K,): deviations of visits from their slot's mean,
    squared and summed; `windows` and `finished`: all that are counted, and their visits. `gains`: days that were
    predicted, the mean of what slots gained in one, its squared deviations, and the variance of the sum if slots did
    not differ; then the open day's number, its gain, that gain's standard deviation by chance, and its visits. `open`:
    the open visit's number and windows; `open_sum` and `previous` (K,): its sum and last window. `due`: at how many
    weeks a shape is looked for. In the last of these, `rows` (n, K) and `numbers` (n,) are the visits, `pairs` how many
    neighbours were compared, and `products` (K, K) their differences' products.
    """

    def __init__(self, dims: int) -> None:
        self.means = np.zeros((SLOTS, dims))
        self.visits = np.zeros(SLOTS)
        self.squares = np.zeros(dims)
        self.open_sum = np.zeros(dims)
        self.previous = np.zeros(dims)
        self.open = np.zeros(2)
        self.gains = np.zeros(8)
        self.windows, self.finished, self.due, self.pairs = 0, 0, WEEKS, 0
        self.rows = np.zeros((0, dims))
        self.numbers = np.zeros(0)
        self.products = np.zeros((dims, dims))

    @property
    def weeks(self) -> float:
        """The mean number of visits to the slots that were seen at all."""
        seen = self.visits > 0
        return float(self.visits[seen].mean()) if seen.any() else 0.0

    def add(self, deviation: Floats, at: float, weights: Floats) -> bool:
        """Count one window's deviation (K,) at its own time; tell whether a visit was over. Late windows are left
        out."""
        visit, before = int(at // SLOT_S), int(self.open[0])
        if self.open[1] and visit < before:
            return False
        over = bool(self.open[1]) and visit > before
        if over:
            self._close(weights)
        row = np.clip(deviation, -MOST, MOST)
        if self.weeks >= self.due - 1 and self.open[1]:
            step = row - self.previous
            self.products += 0.5 * np.outer(step, step)
            self.pairs += 1
        self.open_sum = self.open_sum + row
        self.previous = row
        self.open = np.array([float(visit), self.open[1] + 1])
        return over

    def drop_open(self) -> None:
        """Forget the open visit."""
        self.open_sum, self.open = np.zeros_like(self.open_sum), np.zeros(2)

    def shift(self, moved: Floats) -> None:
        """The baseline's mean has moved by (K,): so have the deviations from it, the other way."""
        self.means[self.visits > 0] -= moved
        self.open_sum = self.open_sum - self.open[1] * moved
        self.previous = self.previous - moved
        self.rows = self.rows - moved

    def expected(self) -> Expected:
        """Compute the prediction of each slot."""
        dims = len(self.squares)
        visits = self.visits.reshape(-1, HOURS)
        seen = visits > 0
        overall = self.means[self.visits > 0].mean(axis=0)
        left = np.where(seen[..., None], self.means.reshape(*visits.shape, dims) - overall, 0.0)
        day, hour = np.zeros((len(visits), dims)), np.zeros((HOURS, dims))
        for _ in range(ROUNDS):  # without slots that were never seen the first is exact
            day = _mean(left - hour, seen, axis=1)
            hour = _mean(left - day[:, None], seen, axis=0)
        own = np.where(seen[..., None], left - day[:, None] - hour, 0.0).reshape(-1, dims)
        days, hours = int(seen.any(axis=1).sum()), int(seen.any(axis=0).sum())
        within = self.squares / max(float((visits[seen] - 1).sum()), 1.0)
        day, of_day = _drawn(day, visits.sum(axis=1), days - 1, within)
        hour, of_hour = _drawn(hour, visits.sum(axis=0), hours - 1, within)
        own, of_own = _drawn(own, self.visits, int(seen.sum()) - days - hours + 1, within)
        mean = overall + (day[:, None] + hour).reshape(-1, dims) + own
        return Expected(mean, overall, (of_day[:, None] + of_hour).reshape(-1, dims) + of_own, within)

    @property
    def is_due(self) -> bool:
        """True if enough weeks are there to look for a shape, and the last one's visits with them."""
        return self.weeks >= self.due and len(self.rows) >= BLOCKS

    @property
    def explains(self) -> bool:
        """True if the slots have predicted days better than the mean of all has, beyond chance."""
        days, mean, squares, chance = self.gains[:4]
        if days < DAYS or mean * days <= BEYOND * math.sqrt(chance):
            return False
        # A single move helps to predict some days and hinders others.
        return bool(mean > OFTEN * math.sqrt(squares / (days - 1) / days))

    def postpone(self) -> None:
        """There is no shape yet: look again when half as many weeks more are there."""
        self.due += max(self.due // 2, 1)
        self.rows, self.numbers, self.pairs = self.rows[:0], self.numbers[:0], 0
        self.products[:] = 0.0

    def found(self, weights: Floats, share: float, now: Baseline) -> tuple[Baseline, Shape] | None:
        """The baseline of what the slots' means leave, and the shape; None where none is found, or where visits depend
        on one another beyond it.

        Args:
            weights: (K,) of the coordinates.
            share: of the model's budget that the stream has, in (0, 1].
            now: the baseline that deviations are from; mean, count and what is far stay its own.
        """
        if not self.explains:
            return None
        expected = self.expected()
        slots = np.array([slot_of(int(number)) for number in self.numbers])
        left = self.rows - expected.mean[slots]
        ratio, good = variance_ratio((left - left.mean(axis=0)) * np.sqrt(weights))
        if not good:
            return None
        made = self._of_windows(weights, expected.within, ratio, now)
        if made is None:
            # What is left of the visits that the means were made of is too little: their variance says how much.
            spread = covariance_of(left - left.mean(axis=0))
            lost = float(expected.within.sum()) / max(float(left.var(axis=0, ddof=1).sum()), 1e-300)
            made = _baseline(now, spread * max(lost, 1.0), SLOT_S, len(left), ratio)
        reach = math.sqrt(dimensions(made.covariance, weights)) + math.sqrt(2 * math.log(SLOTS / (SURE * share)))
        against = float((weights * np.diag(made.covariance)).sum())
        doubts = reach * np.sqrt((weights * expected.variance).sum(axis=1) / max(against, 1e-300))
        return made, Shape(expected.mean, doubts)

    def _of_windows(self, weights: Floats, within: Floats, ratio: float, now: Baseline) -> Baseline | None:
        """The baseline of single windows, where a visit's mean varies as that of independent ones would."""
        dof = float(np.maximum(self.visits - 1, 0).sum())
        if self.pairs < BLOCKS or dof < BLOCKS:
            return None
        covariance = self.products / self.pairs
        single = float((weights * np.diag(covariance)).sum())
        found = float((weights * within).sum()) * self.windows / self.finished / max(single, 1e-300)
        error = math.sqrt(2 / (dof * dimensions(np.diag(within), weights)))
        if found > 1 + TOLERANCE + ERRORS * error:
            return None
        blocks = max(2 * self.pairs // 3, BLOCKS)  # differences say that much less than the windows themselves
        return _baseline(now, covariance, 0.0, blocks, max(found - error, ratio))

    def _close(self, weights: Floats) -> None:
        number, windows = int(self.open[0]), float(self.open[1])
        visit, slot = self.open_sum / windows, slot_of(number)
        if self.visits[slot] and self.finished - np.count_nonzero(self.visits) >= FIRST:
            expected = self.expected()
            moved, off = expected.mean[slot] - expected.overall, visit - expected.overall
            gain = float((weights * (2 * moved * off - moved**2)).sum())  # of squared error
            chance = 2 * math.sqrt(float(((weights * moved) ** 2 * expected.within).sum()))
            self._gain(int(number * SLOT_S // DAY_S), gain, chance)
        if self.weeks >= self.due - 1:
            self.rows = np.concatenate([self.rows, visit[None]])[-SLOTS:]
            self.numbers = np.append(self.numbers, number)[-SLOTS:]
        self.visits[slot] += 1
        before = visit - self.means[slot]
        self.means[slot] += before / self.visits[slot]
        self.squares = self.squares + before * (visit - self.means[slot])
        self.windows, self.finished = self.windows + int(windows), self.finished + 1
        self.drop_open()

    def _gain(self, day: int, gain: float, chance: float) -> None:
        days, mean, squares, chances, known, total, spread, visits = self.gains.tolist()
        if visits and day != known:  # a day's visits are one prediction, however they depend on one another
            days, fresh = days + 1, total / visits
            before = fresh - mean
            mean += before / days
            squares += before * (fresh - mean)
            chances += (spread / visits) ** 2
            total, spread, visits = 0.0, 0.0, 0.0
        self.gains = np.array([days, mean, squares, chances, day, total + gain, spread + chance, visits + 1])


def _mean(values: Floats, seen: npt.NDArray[np.bool_], axis: int) -> Floats:
    """The mean over one axis of (days, hours, K), of what was seen; unseen values are 0."""
    found: Floats = np.where(seen[..., None], values, 0.0).sum(axis=axis) / np.maximum(seen.sum(axis=axis), 1)[:, None]
    return found


def _drawn(effects: Floats, visits: Floats, dof: int, within: Floats) -> tuple[Floats, Floats]:
    """Effects (n, K) drawn towards nothing as far as they are chance, and the variance of that estimate.

    Args:
        visits: (n,) that each is the mean of; without any it is unknown.
        dof: how many of them are free.
        within: (K,) the variance of a visit.
    """
    known = visits > 0
    error = within / np.maximum(visits, 1.0)[:, None]
    between = np.maximum((effects[known] ** 2).sum(axis=0) / max(dof, 1) - error[known].mean(axis=0), 0.0)
    kept = np.where(known[:, None], between / np.maximum(between + error, 1e-300), 0.0)
    return kept * effects, np.where(known[:, None], kept * error, between)


def slot_of(number: int) -> int:
    """The slot of the week of a visit's number, which counts from the epoch; 0 begins on Monday, 00:00 UTC."""
    return (number - MONDAY) % SLOTS


def _baseline(now: Baseline, covariance: Floats, block_s: float, blocks: int, inflation: float) -> Baseline:
    dims = len(covariance)
    ridge = float(np.trace(covariance)) / (dims + blocks) + 1e-12
    return Baseline(
        mean=now.mean,
        covariance=covariance + ridge * np.eye(dims),
        block_s=block_s,
        blocks=blocks,
        inflation=max(inflation, 1.0),
        steady=True,
        far=now.far,
        scale=now.scale,
        count=now.count,
    )


def encode_week(week: Week) -> Packed:
    """Bytes: 5 KB once every slot was seen, 13 KB in a week after which a shape is looked for."""
    seen = np.flatnonzero(week.visits > 0)
    upper = week.products[np.triu_indices(len(week.squares))] if week.pairs else np.zeros(0)
    numbers = [week.windows, week.finished, week.due, week.pairs, *week.open, *week.gains]
    return (
        seen.astype("u1").tobytes(),
        week.visits[seen].astype("<f4").tobytes(),
        week.means[seen].astype("<f2").tobytes(),
        np.concatenate([week.squares, week.open_sum, week.previous]).astype("<f4").tobytes(),
        np.array(numbers, "<f8").tobytes(),
        week.rows.astype("<f2").tobytes(),
        week.numbers.astype("<f8").tobytes(),
        upper.astype("<f4").tobytes(),
    )


def decode_week(data: Packed, dims: int) -> Week:
    """The week of some bytes of `encode_week`; ValueError where they are none."""
    week, seen = Week(dims), np.frombuffer(data[0], "u1")
    week.visits[seen] = np.frombuffer(data[1], "<f4")
    week.means[seen] = np.frombuffer(data[2], "<f2").astype(np.float64).reshape(-1, dims)
    week.squares, week.open_sum, week.previous = np.frombuffer(data[3], "<f4").astype(np.float64).reshape(3, dims)
    numbers = np.frombuffer(data[4], "<f8")
    week.windows, week.finished, week.due, week.pairs = (int(number) for number in numbers[:4])
    week.open, week.gains = numbers[4:6].copy(), numbers[6:].copy()
    week.rows = np.frombuffer(data[5], "<f2").astype(np.float64).reshape(-1, dims)
    week.numbers = np.frombuffer(data[6], "<f8").copy()
    if data[7]:
        upper = np.zeros((dims, dims))
        upper[np.triu_indices(dims)] = np.frombuffer(data[7], "<f4")
        week.products = upper + np.triu(upper, 1).T
    return week

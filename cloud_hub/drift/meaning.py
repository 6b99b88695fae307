"""Has the meaning moved? Pure: how right answers are, by the auditor or by people, in; a running statistic out.

Inputs may look as ever while what is right of them changes. What is watched is the task's agreement, so the same test
holds for classes, values and boxes. A release is held to its own record: the mean of its first units after it became
the default, less a margin for what so many units may be off and for what nobody would act on. The record goes on, by
units that nothing is held against, until a week is over and it is as sure as some 10,000 audits make it; so its margin
shrinks, and a drop of 4 points is found in at most three times what any test needs. Where hours or days differ among
one another beyond chance, as nights do from days, the margin covers that too: the record must hold in each of them, not
only on average. One unit is one device's window (of audits) or one label, never a request: requests repeat. Each unit
is bet against the null "the mean is at least the record less the margin". The bets form an e-detector, a CUSUM of
e-values, whose mean time to a false alarm is at least the threshold, in units, whatever their distribution and however
they depend on one another, as long as each conditional mean keeps to the null.

Sources: Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", NEJSDS 2023;
Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2024.
"""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from fleet.protocol.durations import DAY_S

STAKES = (0.1, 0.3, 0.6, 0.9)  # shares of the capital that may be lost in one unit
LEAST = 0.01  # of agreement; less is not worth a look, and no policy's margin is narrower
ERRORS = 3.0  # standard errors of the record that the margin covers
FEW = 0.03  # the least margin by few units, or before a week is over
UNSEEN = 0.06  # the least margin before a day is over: how nights differ is not known
DAYS = 7  # that are over, at least, when a record is made
SPANS = (3_600.0, 21_600.0, 86_400.0)  # seconds; stretches of time that are compared with one another
PART = 1 / 4  # of the units that a stretch usually has
ALIKE = 1.5  # less than one and a half units that are wrong, however many were right
SURE = 0.0025  # standard error of a record that is made
SUSPICION = 1.5  # evidence with which no unit joins a record
DROP = 0.04  # whose delay is said
RECENT = 20  # units that an alarm speaks of
MOST_AUDITS = 1000  # of one unit, as far as `delay` tells them apart


class Unit(Struct, frozen=True, kw_only=True):
    """One device-window or one label: `share` is the mean agreement in it, in [0, 1], over so many `audits`."""

    device_id: str
    at: float
    share: float
    audits: int = 1


class Sum(Struct, frozen=True, kw_only=True):
    """Values summed up: how many, their mean, and the sum of squared deviations from it."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> Sum:
        """With one more value."""
        count, before = self.count + 1, value - self.mean
        mean = self.mean + before / count
        return Sum(count=count, mean=mean, squares=self.squares + before * (value - mean))

    @property
    def variance(self) -> float:
        """Of the values; 0 of fewer than two."""
        return self.squares / max(self.count - 1, 1)

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return math.sqrt(self.variance / max(self.count, 1))


class Stretches(Struct, frozen=True, kw_only=True):
    """Units by stretches of one length: the `means` of those that are over, the sum of one over how many units each of
    them had (`thin`), and the open one's `number` and shares.

    A stretch with less than `PART` of the usual number of units goes on with the next: the mean of a single unit is
    all right or all wrong, which no other stretch is.
    """

    means: Sum = Sum()
    thin: float = 0.0
    number: int = 0
    open: Sum = Sum()

    def add(self, share: float, number: int) -> Stretches:
        """With one more unit, of the stretch with that number. Late ones count for the open one."""
        few = self.open.count * self.thin < PART * self.means.count
        if number <= self.number or not self.open.count or few:
            return replace(self, number=max(number, self.number), open=self.open.add(share))
        thin = self.thin + 1 / self.open.count
        return Stretches(means=self.means.add(self.open.mean), thin=thin, number=number, open=Sum().add(share))

    def beyond(self, variance: float) -> float:
        """The standard deviation of stretches' means beyond chance, by units that vary so; 0 where chance explains it.

        What chance may hide is within the noise of a stretch, so it adds little evidence in one. Chance goes as far as
        a chi-squared's upper `ERRORS` standard errors, which for few stretches are more than a normal's (Wilson &
        Hilferty, "The distribution of chi-square", PNAS 1931).
        """
        count = self.means.count
        if count < 2:
            return 0.0
        chance = variance * self.thin / count
        skew = 2 / (9 * (count - 1))
        if self.means.variance <= chance * (1 - skew + ERRORS * math.sqrt(skew)) ** 3:
            return 0.0
        return math.sqrt(self.means.variance - chance)


class Making(Struct, frozen=True, kw_only=True):
    """A record in the making: `shares` of units, the same by stretches of each of `SPANS`, and the times of the
    first and the last unit (Unix seconds)."""

    shares: Sum = Sum()
    stretches: tuple[Stretches, ...] = (Stretches(),) * len(SPANS)
    first: float = math.inf
    last: float = 0.0

    def add(self, unit: Unit) -> Making:
        """With one more unit."""
        pairs = zip(self.stretches, SPANS, strict=True)
        return Making(
            shares=self.shares.add(unit.share),
            stretches=tuple(some.add(unit.share, int(unit.at // span)) for some, span in pairs),
            first=min(self.first, unit.at),
            last=max(self.last, unit.at),
        )

    @property
    def days(self) -> int:
        """The number of whole days that are over, of which there are units."""
        return min(self.stretches[-1].means.count, int(max(self.last - self.first, 0.0) // DAY_S))

    @property
    def error(self) -> float:
        """The standard error of the mean, by units, by days, or by stretches that differ beyond chance: the largest."""
        errors = [some.means.error for some in self.stretches if some.beyond(self.shares.variance)]
        days = self.stretches[-1].means
        return max([self.shares.error, *errors, days.error if days.count >= 2 else 0.0])

    @property
    def beyond(self) -> float:
        """The difference of stretches among one another beyond chance, as a standard deviation."""
        return max(some.beyond(self.shares.variance) for some in self.stretches)


class FirstAgreement(Struct, frozen=True, kw_only=True):
    """The release's record from its beginning: its mean agreement over `units` of `audits` in all; `per_day` is how
    many units came in a day, `spread` their standard deviation. `making`: while it goes on; None once it is frozen."""

    mean: float
    margin: float
    units: int
    per_day: float
    audits: int = 0
    spread: float = 0.0
    making: Making | None = None

    @property
    def least(self) -> float:
        """The agreement below which answers have become worse; at 0 and below it, nothing can be worse."""
        return self.mean - self.margin

    def held(self, margin: float) -> FirstAgreement:
        """The record with a policy's margin, where that is wider than its own."""
        return replace(self, margin=max(self.margin, margin))


class Track(Struct, frozen=True, kw_only=True):
    """One source of truth, watched. `first` gathers the record until there is one."""

    first: tuple[Unit, ...] = ()
    record: FirstAgreement | None = None
    logs: tuple[float, ...] = (0.0,) * len(STAKES)
    recent: tuple[Unit, ...] = ()
    counted: int = 0

    def held(self, margin: float) -> Track:
        """The track with its record held to a policy's margin."""
        return replace(self, record=self.record.held(margin)) if self.record is not None else self

    @property
    def log_e(self) -> float:
        """The evidence that the answers have become worse: the mixture over the stakes."""
        return float(np.logaddexp.reduce(self.logs) - math.log(len(self.logs)))

    def limit(self, budget_days: float) -> float:
        """The evidence that raises an alarm: a false one in `budget_days` at most."""
        per_day = self.record.per_day if self.record is not None else 1.0
        return math.log(max(budget_days * per_day, 20.0))

    @property
    def now(self) -> float | None:
        """The mean agreement of the latest units, and just after the record was made the record's; None without any."""
        units = self.recent or self.first[-RECENT:]
        if units:
            return float(np.mean([unit.share for unit in units]))
        return self.record.mean if self.record is not None else None


def count(track: Track, unit: Unit, enough: int, margin: float = LEAST) -> Track:
    """Count one unit: towards the record until it has `enough`, then against it, less the policy's `margin` at
    least."""
    track = replace(track, counted=track.counted + 1)
    if track.record is None:
        first = (*track.first, unit)
        if len(first) < enough:
            return replace(track, first=first)
        making = Making()
        for each in first:
            making = making.add(each)
        return replace(track, first=(), record=_record(making, sum(each.audits for each in first)))
    recent, least = (*track.recent, unit)[-RECENT:], track.record.held(margin).least
    logs = track.logs
    if least > 0:  # else nothing can be worse yet
        gain = max((least - unit.share) / (1 - least), -1.0)
        logs = tuple(max(log, 0.0) + math.log1p(stake * gain) for log, stake in zip(logs, STAKES, strict=True))
    record, before, track = track.record, track.recent, replace(track, logs=logs, recent=recent)
    if record.making is None or track.log_e >= SUSPICION or len(before) < RECENT:
        return track
    # The oldest of the latest joins: what comes first after a drop is under suspicion before it could.
    return replace(track, record=_record(record.making.add(before[0]), record.audits + before[0].audits))


def delay(track: Track, budget_days: float, drop: float = DROP, margin: float = LEAST) -> tuple[float, float] | None:
    """Return after how many audits, and days, a lasting drop is found, on average, at the record's rate.

    A unit's share is taken for that of so many audits, right or wrong, as their spread tells.

    Args:
        track: of the release.
        budget_days: in so many days one false alarm at most.
        drop: of the agreement, in (0, 1).
        margin: the policy's least.

    Returns:
        None where there is no record, or where its margin hides the drop.
    """
    record = track.record.held(margin) if track.record is not None else None
    if record is None or record.least <= 0 or not record.spread:
        return None
    least = record.least
    audits = min(max(round(record.mean * (1 - record.mean) / record.spread**2), 1), MOST_AUDITS)
    rate, right = min(max(record.mean - drop, 1e-6), 1 - 1e-6), np.arange(audits + 1)
    logs = [math.lgamma(audits + 1) - math.lgamma(k + 1) - math.lgamma(audits - k + 1) for k in right]
    chances = np.exp(np.array(logs) + right * math.log(rate) + (audits - right) * math.log(1 - rate))
    gains = np.maximum((least - right / audits) / (1 - least), -1.0)
    growth = max(float(chances @ np.log1p(stake * gains)) for stake in STAKES)
    if growth <= 0:
        return None
    units = (track.limit(budget_days) + math.log(len(STAKES))) / growth
    return units * max(record.audits / record.units, 1.0), units / record.per_day


def again(track: Track) -> Track:
    """The same record, watched from nothing."""
    return replace(track, logs=Track().logs, recent=())


def _record(making: Making, audits: int) -> FirstAgreement:
    shares, error, days = making.shares, making.error, making.days
    unseen = ALIKE / shares.count  # units that are all alike do not show how they vary
    least = LEAST if days >= DAYS else FEW if days else UNSEEN
    return FirstAgreement(
        mean=shares.mean,
        margin=max(least, ERRORS * max(error, making.beyond), min(FEW, unseen)),
        units=shares.count,
        per_day=shares.count * DAY_S / max(making.last - making.first, 1.0),
        audits=audits,
        spread=math.sqrt(shares.variance),
        making=making if error > SURE or unseen > LEAST or days < DAYS else None,
    )

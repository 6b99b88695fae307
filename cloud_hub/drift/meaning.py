"""Has the meaning moved? Pure: how right answers are, by the auditor or by people, in; a running statistic out.

Inputs may look as ever while what is right of them changes. What is watched is the task's agreement, so the same test
holds for classes, values and boxes. A release is held to its own record: the mean of its first units after it became
the default, less a margin for what so few units may be off and for what nobody would act on. One unit is one device's
window (of audits) or one label, never a request: requests repeat. Each unit is bet against the null "the mean is at
least the record less the margin"; the bets are an e-detector as in `detector`, with the sources named there.
"""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from cloud_hub.drift.detector import STAKES, threshold

LEAST = 0.03  # of agreement; less is not worth a retrain
ERRORS = 3.0  # standard errors of the record that the margin covers
RECENT = 20  # units that an alarm speaks of
DAY_S = 86_400.0


class Unit(Struct, frozen=True, kw_only=True):
    """One device-window or one label: `share` is the mean agreement in it, in [0, 1]."""

    device_id: str
    at: float
    share: float


class Record(Struct, frozen=True, kw_only=True):
    """What the release did at first: its mean agreement over `units`; `per_day` is how many came in a day."""

    mean: float
    margin: float
    units: int
    per_day: float


class Track(Struct, frozen=True, kw_only=True):
    """One source of truth, watched. `first` gathers the record until there is one."""

    first: tuple[Unit, ...] = ()
    record: Record | None = None
    logs: tuple[float, ...] = (0.0,) * len(STAKES)
    recent: tuple[Unit, ...] = ()
    counted: int = 0

    @property
    def log_e(self) -> float:
        """The evidence that the answers have become worse: the mixture over the stakes."""
        return float(np.logaddexp.reduce(self.logs) - math.log(len(self.logs)))

    def limit(self, budget_days: float) -> float:
        """The evidence that raises an alarm: a false one in `budget_days` at most."""
        return threshold(budget_days, self.record.per_day if self.record is not None else 1.0)

    @property
    def now(self) -> float | None:
        """The mean agreement of the latest units, and just after the record was made the record's; None without any."""
        units = self.recent or self.first[-RECENT:]
        if units:
            return float(np.mean([unit.share for unit in units]))
        return self.record.mean if self.record is not None else None


def count(track: Track, unit: Unit, enough: int) -> Track:
    """Count one unit: towards the record until it has `enough`, then against it."""
    track = replace(track, counted=track.counted + 1)
    if track.record is None:
        first = (*track.first, unit)
        if len(first) < enough:
            return replace(track, first=first)
        return replace(track, first=(), record=_record(first))
    least = track.record.mean - track.record.margin
    recent = (*track.recent, unit)[-RECENT:]
    if least <= 0:  # nothing can be worse
        return replace(track, recent=recent)
    gain = (least - unit.share) / (1 - least)
    logs = tuple(
        max(log, 0.0) + math.log1p(stake * max(gain, -1.0)) for log, stake in zip(track.logs, STAKES, strict=True)
    )
    return replace(track, logs=logs, recent=recent)


def again(track: Track) -> Track:
    """The same record, watched from nothing."""
    return replace(track, logs=Track().logs, recent=())


def _record(units: tuple[Unit, ...]) -> Record:
    shares = np.asarray([unit.share for unit in units])
    error = float(shares.std(ddof=1)) / math.sqrt(len(shares))
    span = max(unit.at for unit in units) - min(unit.at for unit in units)
    return Record(
        mean=float(shares.mean()),
        margin=max(LEAST, ERRORS * error),
        units=len(units),
        per_day=len(units) * DAY_S / max(span, 1.0),
    )

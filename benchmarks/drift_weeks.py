"""The test that a baseline learns the week; `statistics.py` runs it.

A model whose weekdays hold half as many again of five classes, and its weekends half as few. A baseline of the first
day, a Monday, knows nothing of it: the weekends raise alarms, which an operator closes as usual (`fleet drift close
--usual`) until weeks are there. Counted are the false alarms after three weeks, and in how many windows of each
device a class that is gone then is found, from a moment of the week drawn for each replicate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.drift_promises import DAY, ROWS, WINDOW_S, Digits, Draw, Fleet, digits, windows
from cloud_hub.drift import signed
from cloud_hub.drift.baseline import Baseline
from cloud_hub.drift.signed import Bank
from cloud_hub.drift.week import MONDAY, SLOT_S, SLOTS, Week, slot_of
from fleet.protocol.durations import DAY_S

Floats = npt.NDArray[np.float64]
SWING, BANK = 0.5, 4000
LEARNT = 21 * DAY  # windows of a device after which the week is there
WITHIN = 100


class WeeklyFleet(Fleet):
    """Replicates that learn the week beside a baseline of the first day, as `streams.learn_week` does."""

    def begin(self, draw: Draw) -> None:
        """Learn the first day, a Monday."""
        self.now = MONDAY * SLOT_S + DAY_S - WINDOW_S
        self.learn(np.stack([draw(step) for step in range(DAY)]))
        assert self.bank is not None
        self.streams, dims = self.bank.mean.shape
        self.weeks: list[Week | None] = [Week(dims) for _ in range(self.streams)]
        self.offsets, self.doubts = np.zeros((self.streams, SLOTS, dims)), np.zeros((self.streams, SLOTS))

    def step(self, seen: Floats) -> npt.NDArray[np.bool_]:
        """Count one window of each device (replicates, devices, K); which streams are over their limit."""
        assert self.bank is not None
        self.now += WINDOW_S
        means = self.bank.mean.reshape(self.replicates, self.devices + 1, -1)[:, :-1]
        rows = np.concatenate([seen, (seen - means).mean(axis=1, keepdims=True)], axis=1)
        counts = np.tile([float(ROWS)] * self.devices + [float(self.devices)], self.replicates)
        flat, slot = rows.reshape(self.streams, -1), slot_of(int(self.now // SLOT_S))
        expected = flat - self.offsets[:, slot]
        at = np.full(self.streams, self.now)
        signed.step(self.bank, self.weights, expected, counts, at, self.doubts[:, slot])
        for place, week in enumerate(self.weeks):
            if week is not None and week.add(flat[place] - self.bank.mean[place], self.now, self.weights):
                self._adopt(place, week)
        return self.bank.log_e.reshape(self.replicates, -1) >= self.limits

    @property
    def found(self) -> float:
        """The share of streams that have a baseline of weeks."""
        return float(np.mean([week is None for week in self.weeks]))

    def _adopt(self, place: int, week: Week) -> None:
        if not week.is_due:
            return
        assert self.bank is not None
        share, bank = float(self.shares[place % len(self.shares)]), self.bank
        now = Baseline(
            mean=bank.mean[place],
            covariance=bank.covariance[place],
            block_s=0.0,
            blocks=1,
            inflation=1.0,
            steady=False,
            far=float(bank.far[place]),
            scale=float(bank.scale[place]),
            count=float(bank.count[place]),
        )
        made = week.found(self.weights, share, now)
        if made is None:
            week.postpone()
            return
        fresh = Bank.begin([made[0]], [share], self.weights, self.now)
        for name, value in vars(fresh).items():
            getattr(bank, name)[place] = value[0]
        self.offsets[place], self.doubts[place] = made[1].offsets, made[1].doubts
        self.weeks[place] = None


def weekly(data: Digits, images: Floats, classes: npt.NDArray[np.int64], shape: tuple[int, int], seed: int) -> Draw:
    """The windows of such a week, from its Monday on."""
    rng = np.random.default_rng([seed, len(images)])
    sign = np.where(classes < 5, 1, -1)
    mixes = [1 + SWING * sign, 1 - SWING * sign]
    banks = np.stack([windows(images, BANK, rng, p=p / p.sum()) for p in mixes])
    return lambda step: banks[int(step // DAY % 7 >= 5), rng.integers(0, BANK, shape)]


def false_alarms(data: Digits, replicates: int, days: int, seed: int, devices: int = 3) -> dict[str, Any]:
    """Alarms before and after three weeks, over so many days of each replicate."""
    draw = weekly(data, data.plain, data.classes, (replicates, devices), seed)
    fleet, alarms = WeeklyFleet(data.basis.weights, replicates, devices), {True: 0, False: 0}
    fleet.begin(draw)
    weeks = 0.0
    for step in range(DAY, days * DAY):
        over = fleet.alarms(draw(step))
        alarms[step >= LEARNT] += int(over.sum())
        if over.any():
            fleet.close(over)
        if step == LEARNT + DAY:
            weeks = fleet.found
    return {
        "traffic": "weekly",
        "devices": devices,
        "model_days": replicates * (days - 21),
        "alarms": alarms[True],
        "alarms_before": alarms[False],
        "of_weeks": weeks,
    }


def delays(data: Digits, replicates: int, seed: int, devices: int = 3, most: int = 400) -> dict[str, Any]:
    """Windows of each device until a class that is gone is found, once the week is known."""
    shape = (replicates, devices)
    draw = weekly(data, data.plain, data.classes, shape, seed)
    gone = weekly(data, data.changed["class gone"], data.classes[data.classes != 0], shape, seed)
    fleet = WeeklyFleet(data.basis.weights, replicates, devices)
    fleet.begin(draw)
    begin = LEARNT + DAY + np.random.default_rng(seed).integers(0, 7 * DAY, replicates)
    found = np.zeros(replicates, np.int64)
    for step in range(DAY, int(begin.max()) + most):
        moved = step >= begin
        over = fleet.alarms(np.where(moved[:, None, None], gone(step), draw(step)))
        fresh = over & moved & (found == 0)
        found[fresh] = step - begin[fresh] + 1
        if over.any():
            fleet.close(over)
        if found.all():
            break
    late = np.where(found == 0, most + 1, found)
    return {
        "shift": "class gone, weekly",
        "devices": devices,
        "replicates": replicates,
        "median": float(np.median(late)),
        "slowest": int(late.max()),
        "within": WITHIN,
        "found": float((late <= WITHIN).mean()),
    }


def measure(draws: int, model_days: int, seed: int) -> dict[str, Any]:
    """Both rows; prints each as it comes."""
    data = digits(seed)
    late = delays(data, draws // 8, seed)
    print("{shift:18} {devices:2} devices: {found:.3f} within {within} windows, median {median:.0f}".format(**late))
    replicates = max(draws // 4, 1)
    quiet = false_alarms(data, replicates, 21 + max(model_days // replicates, 14), seed)
    print("{traffic:18} {alarms} alarms in {model_days:.0f} model-days, {alarms_before} before".format(**quiet))
    return {"delays": late, "false_alarms": quiet}

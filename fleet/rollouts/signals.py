"""Evidence from a release's own telemetry: failures, latency and confidence, against each device's habit. Pure.

Nobody says here which answers are right. A window of a device is *worse* when it lies outside of that device's own
habit under the release before: more of its requests failed or were refused, its slowest tenth took longer, or it was
less sure. Devices differ, and hours do; so a device is held to its own habit, and the windows of the new release are
matched with those that others send at the same time under the old one (`matching`). The proof is that the new release
has no more such windows than the old one, less a margin; it is no proof that its answers are as right.

A device's first window after it has swapped says nothing of latency: loading and compiling are slow once, and no harm.
Its failures and its confidence count.

A window that is never matched uses nothing up: devices report every minute, also while a rollout waits for its start,
or soaks, for days. And each stage takes as much of a device as the one before.

A habit is the worst of nineteen in twenty of a device's last windows before the first device was asked, with a
tolerance. Such windows come without any change, too, as often in both arms: so the habit need not be exact.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from msgspec import Struct, field, structs

from fleet.rollouts.matching import MOST_OF_ONE, JudgedAnswer, Matched, match
from fleet.rollouts.pairs import Pairs

WINDOWS, LEAST_WINDOWS = 60, 20  # that make a habit at most, and at least
REQUESTS = 5  # of a window that says something
USUAL = 0.95  # of a device's windows are within its habit
FAILED = 0.02  # tolerance: share of the requests
SLOWER = 0.5  # of the latency's binary logarithm: 1.4 times
LESS_SURE = 0.05  # of the mean confidence
SLOWEST = 0.9  # the latency that so many requests stay within
KEPT = 500  # outcomes of one arm that wait for the other: later ones are matched with what is of their time
Why = Literal["", "failed", "slow", "unsure"]


class Signal(Struct, frozen=True, array_like=True):
    """One window: the share of requests that failed or were refused, the binary logarithm of the latency (µs) that nine
    in ten stay within, and the mean confidence; None where it does not say."""

    failed: float
    slow: float | None
    sure: float | None


class Habit(Struct, frozen=True, array_like=True):
    """The usual figures of one device: `failed` and `slow` at most, `sure` at least."""

    failed: float
    slow: float | None
    sure: float | None

    def worse(self, signal: Signal) -> Why:
        """In what a window lies outside of it; empty where it does not."""
        if signal.failed > self.failed:
            return "failed"
        if signal.slow is not None and self.slow is not None and signal.slow > self.slow:
            return "slow"
        if signal.sure is not None and self.sure is not None and signal.sure < self.sure:
            return "unsure"
        return ""


class State(Struct, kw_only=True):
    """The counts of an attempt: windows after the number `first`, up to `last`; of each device its habit, None of one
    that has too few windows; outcomes that wait, how many of each device wait or are in a pair of this `stage`
    (`counted`), and pairs as in `Matched`. `whys` counts the ways in which windows of each release were worse. `warm`
    are devices whose first window of the new release is over."""

    first: int
    last: int
    stage: int = 0
    habits: dict[str, Habit | None] = field(default_factory=dict)
    new: list[tuple[str, bool]] = field(default_factory=list)
    old: list[tuple[str, bool]] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    by_new: dict[str, Pairs] = field(default_factory=dict)
    by_old: dict[str, Pairs] = field(default_factory=dict)
    whys: dict[str, dict[str, int]] = field(default_factory=dict)
    warm: dict[str, bool] = field(default_factory=dict)

    @property
    def matched(self) -> Matched:
        """The pairs so far."""
        return Matched(
            by_new=dict(self.by_new),
            by_old=dict(self.by_old),
            waiting_new=len(self.new),
            waiting_old=len(self.old),
            whys={release: dict(sorted(found.items())) for release, found in sorted(self.whys.items())},
        )

    def at(self, stage: int) -> None:
        """Go on at a stage, in which every device may count anew."""
        if stage != self.stage:
            self.stage, self.counted = stage, dict(Counter(device for device, _ in (*self.new, *self.old)))


def signal_of(body: Mapping[str, Any]) -> Signal | None:
    """Read the signal of a window's document; None where it had too few requests."""
    counters = body.get("counters", {})
    requests = counters.get("requests", 0)
    if requests < REQUESTS:
        return None
    return Signal(
        failed=min(counters.get("failed", 0) / requests, 1.0),
        slow=_within(body.get("latency_us", ()), SLOWEST),
        sure=_mean(body.get("confidence", ())),
    )


def habit_of(signals: Sequence[Signal]) -> Habit | None:
    """A device's habit by its windows; None by too few of them."""
    if len(signals) < LEAST_WINDOWS:
        return None
    slow = [one.slow for one in signals if one.slow is not None]
    sure = [one.sure for one in signals if one.sure is not None]
    return Habit(
        failed=float(np.quantile([one.failed for one in signals], USUAL)) + FAILED,
        slow=float(np.quantile(slow, USUAL)) + SLOWER if len(slow) >= LEAST_WINDOWS else None,
        sure=float(np.quantile(sure, 1 - USUAL)) - LESS_SURE if len(sure) >= LEAST_WINDOWS else None,
    )


def count(state: State, windows: Sequence[tuple[str, Signal]], cohort: Collection[str]) -> None:
    """Count windows in the order in which they came.

    Devices without a habit prove nothing, and none counts with more than `MOST_OF_ONE` in a stage.

    Args:
        state: the attempt's counts; changed here.
        windows: each with its device.
        cohort: devices whose windows are of the new release; all others' are of the old one.
    """
    for device, found_signal in windows:
        new, signal = device in cohort, found_signal
        if new and device not in state.warm:
            state.warm[device], signal = True, structs.replace(signal, slow=None)
        habit, had = state.habits.get(device), state.counted.get(device, 0)
        if habit is None or had >= MOST_OF_ONE:
            continue
        state.counted[device] = had + 1
        why = habit.worse(signal)
        (state.new if new else state.old).append((device, not why))
        if why:
            found = state.whys.setdefault("new" if new else "old", {})
            found[why] = found.get(why, 0) + 1
    pairs = min(len(state.new), len(state.old))
    found_pairs = match(_outcomes(state.new[:pairs]), _outcomes(state.old[:pairs]))
    for device, _ in (*state.new[pairs:][:-KEPT], *state.old[pairs:][:-KEPT]):
        state.counted[device] -= 1  # it was of another time, and in no pair
    state.new, state.old = state.new[pairs:][-KEPT:], state.old[pairs:][-KEPT:]
    for known, more in ((state.by_new, found_pairs.by_new), (state.by_old, found_pairs.by_old)):
        for device, pair in more.items():
            known[device] = _sum(known.get(device, Pairs()), pair)


def _outcomes(found: Sequence[tuple[str, bool]]) -> list[JudgedAnswer]:
    return [JudgedAnswer(device, right) for device, right in found]


def _sum(one: Pairs, other: Pairs) -> Pairs:
    names = ("both", "only_old", "only_new", "neither")
    return structs.replace(one, **{name: getattr(one, name) + getattr(other, name) for name in names})


def _within(buckets: Sequence[int], share: float) -> float | None:
    """The binary logarithm that a share of the counts stays within; bucket i holds [2^i, 2^(i+1))."""
    total = sum(buckets)
    if total < REQUESTS:
        return None
    left = share * total
    for place, number in enumerate(buckets):
        if number >= left:
            return place + left / number if number else float(place)
        left -= number
    return float(len(buckets))


def _mean(bins: Sequence[int]) -> float | None:
    """The mean of a histogram over [0, 1]."""
    total = sum(bins)
    if total < REQUESTS:
        return None
    mean = math.fsum(number * (place + 0.5) for place, number in enumerate(bins)) / total / len(bins)
    return min(max(mean, 0.0), 1.0)

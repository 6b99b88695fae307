"""The delay until worse answers are found, beside the least that any test needs; `statistics.py` runs it.

A release that agrees with its auditor in 93 % of all cases, then in 89 %, while its inputs stay as they were: one
request a second, one in a hundred audited, windows of ten minutes, after 10,000 audits. No test whose false alarms are
a budget's time apart finds it in fewer audits, on average, than the budget's logarithm over the divergence of the two
(Lorden, "Procedures for reacting to a change in distribution", 1971). False alarms are counted over the time before.

Beside it, false alarms of fleets whose answers are right less often by night than by day, from nine in the morning on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cloud_hub.drift import budget, meaning
from cloud_hub.drift.meaning import Track, Unit
from fleet.protocol.durations import DAY_S

BEFORE, AFTER = 0.93, 0.89
WINDOW_S, RATE = 600.0, 0.01  # audits in a second
BUDGET_DAYS, FIRST = 1000.0, 30
AUDITS, MOST = 10_000, 20_000
NIGHTS, DAYS = (0.02, 0.03), 14  # how much less often right, and how long
FLEETS = (20, 200)
SHARED = 2 / budget.ANSWERS  # tracks of labels and audits, and their part of the budget


def bound() -> float:
    """Lorden's, in audits."""
    divergence = AFTER * math.log(AFTER / BEFORE) + (1 - AFTER) * math.log((1 - AFTER) / (1 - BEFORE))
    return math.log(BUDGET_DAYS * DAY_S * RATE) / divergence


def row(replicates: int, seed: int) -> dict[str, Any]:
    """Audits until the alarm, over replicates; `said` is what the hub says beforehand."""
    rng, found, said, false = np.random.default_rng([seed, 4]), [], [], 0
    for _ in range(replicates):
        track, total, at = Track(), 0, 0.0
        raised, late = False, MOST
        while late == MOST and total < AUDITS + MOST:
            size = int(rng.poisson(WINDOW_S * RATE))
            at += WINDOW_S
            if not size:
                continue
            share = rng.binomial(size, AFTER if total >= AUDITS else BEFORE) / size
            if total < AUDITS <= total + size:
                expected = meaning.delay(track, BUDGET_DAYS * SHARED)
                said.append(expected[0] if expected is not None else math.inf)
            total += size
            track = meaning.count(track, Unit(device_id="d", at=at, share=share, audits=size), FIRST)
            if track.log_e >= track.limit(BUDGET_DAYS * SHARED):
                if total < AUDITS:
                    raised, track = True, meaning.again(track)
                else:
                    late = total - AUDITS
        found.append(late)
        false += raised
    least = bound()
    return {
        "before": BEFORE,
        "after": AFTER,
        "replicates": replicates,
        "audits_before": AUDITS,
        "false_before": false,
        "median": float(np.median(found)),
        "lorden": least,
        "ratio": float(np.median(found)) / least,
        "said": float(np.median(said)),
    }


def hours(devices: int, less: float, replicates: int, seed: int) -> dict[str, Any]:
    """False alarms of a fleet in two weeks, twelve audits in each window; it is watched again after each."""
    rng, alarms, margins = np.random.default_rng([seed, devices, int(1000 * less)]), 0, []
    for _ in range(replicates):
        track = Track()
        for at in np.arange(9 * 3600.0, 9 * 3600.0 + DAYS * DAY_S, WINDOW_S):
            rate = BEFORE if 6 <= at % DAY_S / 3600 < 18 else BEFORE - less
            for share in rng.binomial(12, rate, devices) / 12:
                track = meaning.count(track, Unit(device_id="d", at=float(at), share=float(share), audits=12), FIRST)
                if track.log_e >= track.limit(BUDGET_DAYS * SHARED):
                    alarms, track = alarms + 1, meaning.again(track)
        assert track.record is not None
        margins.append(track.record.margin)
    return {
        "devices": devices,
        "night_less": less,
        "days": DAYS * replicates,
        "false": alarms,
        "margin": float(np.median(margins)),
    }


def measure(draws: int, seed: int) -> dict[str, Any]:
    """The row; printed."""
    found = row(max(5 * draws // 2, 1), seed)  # its median is near what it is held to
    print("agreement {before} to {after}: median {median:.0f} audits, {ratio:.2f} of the bound".format(**found))
    found["hours"] = [hours(devices, less, max(draws // 400, 1), seed) for devices in FLEETS for less in NIGHTS]
    for line in found["hours"]:
        print("{devices} devices, nights {night_less:.2f} lower: {false} alarms in {days} days".format(**line))
    return found

"""The drift test. Pure: windows' sketches in, a running statistic out.

The sampling unit is the device-window: what one device saw between two moments is one number, its
squared maximum mean discrepancy from the frozen baseline, however many requests (often of the same
input) it holds. The null is not "no distance" but "a mean distance of at most the device's margin",
where the margin covers what held-out data of the same origin and the device's own baseline windows
showed. Each window is bet against the null; the bets form an e-detector, a CUSUM of e-values, whose
mean time to a false alarm is at least the threshold, in windows, whatever the windows' distribution
and however they depend on one another, as long as each conditional mean keeps to the null.

Sources: Gretton et al., "A Kernel Two-Sample Test", JMLR 13, 2012; Shin, Ramdas & Rinaldo,
"E-detectors: a nonparametric framework for sequential change detection", NEJSDS 2023;
Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2024.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from fleet.protocol.messages import SketchData
from fleet.protocol.sketch import distance, merge

STAKES = (0.1, 0.3, 0.6, 0.9)  # shares of the capital that may be lost in one window
SPREAD = 2.0  # standard deviations of baseline windows that the margin covers
MIN_OWN = 4  # baseline windows of one device before it gets a margin of its own


class DeviceWindow(Struct, frozen=True, kw_only=True):
    """One device's sketch of one window."""

    device_id: str
    sketch: SketchData


class Baseline(Struct, frozen=True, kw_only=True):
    """What traffic looked like after promotion. `margins` are the devices' own, `margin` everyone else's."""

    sketch: SketchData
    margin: float
    margins: dict[str, float]
    windows: int


class Detector(Struct, frozen=True, kw_only=True):
    """The running test: one log e-value per stake, windows counted, and the last distances."""

    logs: tuple[float, ...] = (0.0,) * len(STAKES)
    windows: int = 0

    @property
    def log_e(self) -> float:
        """The mixture over the stakes."""
        return float(np.logaddexp.reduce(self.logs) - math.log(len(self.logs)))


class Bet(Struct, frozen=True, kw_only=True):
    """One window judged: its distance, the margin it was held to, and the statistic afterwards."""

    device_id: str
    distance: float
    margin: float
    log_e: float


def make_baseline(windows: Sequence[DeviceWindow], margin: float) -> Baseline:
    """Freeze a baseline from the first windows after a promotion.

    Each window's distance from all the others says how far a window of the same traffic lies; with
    inputs that repeat within a window this is much more than independent inputs would show.

    Args:
        windows: at least three, each of at least two inputs.
        margin: fitted by the compiler on held-out data; never undercut.
    """
    away: dict[str, list[float]] = defaultdict(list)
    for index, window in enumerate(windows):
        others = [other.sketch for position, other in enumerate(windows) if position != index]
        away[window.device_id].append(distance(_merged(others), window.sketch))
    pooled = max(margin, _upper([value for values in away.values() for value in values]))
    own = {device: max(pooled, _upper(values)) for device, values in away.items() if len(values) >= MIN_OWN}
    return Baseline(
        sketch=_merged([window.sketch for window in windows]), margin=pooled, margins=own, windows=len(windows)
    )


def bet(baseline: Baseline, detector: Detector, window: DeviceWindow) -> tuple[Detector, Bet]:
    """Count one window.

    With X the window's distance, m the margin and l the least value that X can take, the factor
    1 + s (X - m) / (m - l) is never negative and has mean at most 1 under the null, for each stake
    s < 1. The CUSUM max(E, 1) · factor is an e-detector.
    """
    margin = baseline.margins.get(window.device_id, baseline.margin)
    value = distance(baseline.sketch, window.sketch)
    least = -1.0 / (window.sketch.count - 1) - 1.0 / (baseline.sketch.count - 1)
    gain = (value - margin) / (margin - least)
    logs = tuple(
        max(log, 0.0) + math.log1p(stake * max(gain, -1.0)) for log, stake in zip(detector.logs, STAKES, strict=True)
    )
    after = replace(detector, logs=logs, windows=detector.windows + 1)
    return after, Bet(device_id=window.device_id, distance=value, margin=margin, log_e=after.log_e)


def threshold(days: float, windows_per_day: float) -> float:
    """The log statistic that raises an alarm: at most one false alarm in `days`, all devices together."""
    return math.log(max(days * windows_per_day, 20.0))


def _merged(sketches: Sequence[SketchData]) -> SketchData:
    total = sketches[0]
    for sketch in sketches[1:]:
        total = merge(total, sketch)
    return total


def _upper(values: Sequence[float]) -> float:
    array = np.asarray(values)
    return float(array.mean() + SPREAD * (array.std(ddof=1) if len(array) > 1 else 0.0))

"""Calibrated confidence for one variant, and the threshold below which it asks the cloud. Pure.

A target is signed only if it holds on unseen data with `LEVEL` confidence; that is proven for inputs exchangeable with
the evaluation rows (drawn as they are), and for no others: a shifted stream keeps no promise. Some rows fit the
temperature and say where to begin, the others choose the threshold and draw the curve:

- a share of cloud calls: the order statistic whose exceedance has an exact binomial bound (Clopper and Pearson,
  "The use of confidence or fiducial limits", Biometrika 1934);
- an error: thresholds are tested in a fixed order, from many calls to few, each with an exact binomial test, until one
  fails; the chance that any accepted one breaks the target is at most 1 - `LEVEL` (fixed-sequence testing in
  Angelopoulos et al., "Learn then Test", 2021).

Source of temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol import confidence as protocol
from fleet.protocol.manifest import Deferral, DeferralPoint
from model_compiler.inputs.deferral_target import DeferTarget
from model_compiler.intervals import wilson

LEVEL = 0.95  # confidence that a signed target holds
FIRST_SHARE, FIRST_MOST = 5, 1000  # one row in five, at most so many, fits the temperature
ALL = 1.0 + 1e-9  # a threshold below which every confidence lies
CURVE_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
GOLDEN = (math.sqrt(5) - 1) / 2


def fit_temperature(logits: npt.NDArray[Any], y: npt.NDArray[np.int64], *, apply_softmax: bool) -> float:
    """Fit the temperature in [0.1, 20] of the highest posterior, by golden-section search on its logarithm.

    Its prior, log T ~ N(0, 1), weighs as much as one row: a few rows that are all right ask for no certainty.

    Args:
        logits: (n, classes).
        y: (n,) class numbers.
        apply_softmax: the logits are no probabilities yet.
    """

    def loss(log_t: float) -> float:
        p = protocol.probabilities(logits, temperature=math.exp(log_t), apply_softmax=apply_softmax)
        likelihood = -np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).sum()
        return float(likelihood + log_t**2 / 2)

    low, high = math.log(0.1), math.log(20.0)
    a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    for _ in range(60):
        if loss(a) < loss(b):
            high, b = b, a
            a = high - GOLDEN * (high - low)
        else:
            low, a = a, b
            b = low + GOLDEN * (high - low)
    return math.exp((low + high) / 2)


def fit(
    logits: npt.NDArray[Any],
    y: npt.NDArray[np.int64],
    cloud: npt.NDArray[np.int64] | None,
    target: DeferTarget,
    *,
    apply_softmax: bool,
) -> Deferral:
    """Temperature, threshold and curve of one variant.

    Args:
        logits: the variant's outputs, (n, classes).
        y: labels, (n,).
        cloud: the cloud variant's predicted classes, (n,); None takes the cloud to be no better.
    """
    first, _ = _split(len(y))
    temperature = fit_temperature(logits[first], y[first], apply_softmax=apply_softmax)
    p = protocol.probabilities(logits, temperature=temperature, apply_softmax=apply_softmax)
    right = p.argmax(axis=1) == y
    return fit_sure(
        protocol.confidence(p), right, None if cloud is None else cloud == y, target, temperature=temperature
    )


def fit_sure(
    sure: npt.NDArray[Any],
    right: npt.NDArray[Any],
    cloud_right: npt.NDArray[Any] | None,
    target: DeferTarget,
    *,
    temperature: float = 1.0,
) -> Deferral:
    """Threshold and curve of one variant whose task says how sure each answer is.

    Where the target cannot be promised, none is signed (`target` is empty, `level` 0.0), and the threshold is the one
    that does best on the rows.

    Args:
        sure: the confidence of each answer, (n,) in [0, 1].
        right: whether it is right, bool (n,).
        cloud_right: whether the cloud's answer is; None takes the cloud to be no better.
    """
    rows = Rows(sure, right, right if cloud_right is None else cloud_right)
    first, rest = (rows.take(part) for part in _split(len(sure)))
    curve = tuple(_point(rest, rest.deferring(share)) for share in CURVE_SHARES)
    found = (
        _within_share(rest, target.cloud or 0.0) if target.error is None else _within_error(first, rest, target.error)
    )
    if found is None:
        return Deferral(temperature=temperature, threshold=_best(rows), target="", curve=curve)
    return Deferral(temperature=temperature, threshold=found, target=target.describe(), level=LEVEL, curve=curve)


def unmet(fitted: Deferral, target: DeferTarget) -> str:
    """Say in words what cannot be promised; empty where the target is signed and the cloud is asked."""
    if target.error is None:
        if not target.cloud or fitted.threshold > fitted.curve[0].threshold:  # the curve begins where nothing is sent
            return ""
        return (
            "the variant never asks the cloud: the evaluation rows are too few, or their confidences too much alike, "
            f"to promise {target.describe()}"
        )
    if fitted.target:
        return ""
    least = 1 - max(point.combined_accuracy for point in fitted.curve)
    return (
        f"no deferral target is signed: {target.describe()} could not be shown with {100 * LEVEL:g} % confidence on "
        f"these rows, where the best error seen is {100 * least:.3g} %; give more evaluation rows, a better cloud "
        "model, or another --defer-error"
    )


@dataclass(frozen=True)
class Rows:
    """Evaluation rows: how sure each answer is, and whether it and the cloud's are right; each (n,)."""

    sure: npt.NDArray[Any]
    right: npt.NDArray[Any]
    cloud_right: npt.NDArray[Any]

    def take(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Only these."""
        return Rows(self.sure[rows], self.right[rows], self.cloud_right[rows])

    def deferring(self, share: float) -> float:
        """The threshold that defers at most `share` of these rows."""
        ordered, count = np.sort(self.sure), int(share * len(self.sure))
        return float(ordered[count]) if count < len(ordered) else ALL

    def wrong(self, thresholds: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Count the wrong answers where those below a threshold come from the cloud, for each threshold (m,)."""
        order = np.argsort(self.sure)
        theirs = np.concatenate([[0], np.cumsum(~self.cloud_right[order].astype(bool))])
        ours = np.concatenate([[0], np.cumsum(~self.right[order].astype(bool))])
        deferred = np.searchsorted(self.sure[order], thresholds, side="left")
        found: npt.NDArray[np.int64] = theirs[deferred] + ours[-1] - ours[deferred]
        return found


def _split(n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows for the temperature, and rows for the threshold, whatever order they come in."""
    order = np.random.default_rng(0).permutation(n)
    cut = min(n // FIRST_SHARE, FIRST_MOST)
    return (order[:cut], order[cut:]) if cut else (order, order)


def _within_share(rest: Rows, share: float) -> float:
    """The highest threshold that defers at most `share` of all requests, at `LEVEL`."""
    from scipy.stats import binom

    counts = np.arange(int(share * len(rest.sure)) + 1)
    held = counts[binom.cdf(counts, len(rest.sure), share) <= 1 - LEVEL] if share < 1 else [len(rest.sure)]
    if len(held) == 0:  # too few rows to promise any calls
        return 0.0
    count = int(held[-1])
    return float(np.sort(rest.sure)[count]) if count < len(rest.sure) else ALL


def _within_error(first: Rows, rest: Rows, error: float) -> float | None:
    """The lowest threshold down to which at most `error` of all answers are wrong, at `LEVEL`; None if not even one."""
    from scipy.stats import binom

    thresholds = np.unique([0.0, *first.sure, ALL])[::-1]  # none of them depends on the rows that they are tested on
    thresholds = thresholds[int(np.argmin(first.wrong(thresholds))) :]
    shown = binom.cdf(rest.wrong(thresholds), len(rest.sure), error) <= 1 - LEVEL
    held = len(shown) if shown.all() else int(np.argmin(shown))  # up to the first that fails
    return float(thresholds[held - 1]) if held else None


def _best(rows: Rows) -> float:
    """The threshold with the fewest wrong answers on these rows, and of those the one with the fewest calls."""
    thresholds = np.unique([0.0, *rows.sure, ALL])
    return float(thresholds[int(np.argmin(rows.wrong(thresholds)))])


def _point(rows: Rows, threshold: float) -> DeferralPoint:
    """The curve at a threshold."""
    deferred = rows.sure < threshold
    kept = rows.right[~deferred]
    good = len(deferred) - int(rows.wrong(np.array([threshold]))[0])
    return DeferralPoint(
        threshold=threshold,
        cloud_share=float(deferred.mean()),
        edge_accuracy=float(kept.mean()) if len(kept) else 1.0,
        combined_accuracy=good / len(deferred),
        edge_interval=wilson(int(kept.sum()), len(kept)) if len(kept) else (0.0, 1.0),
        combined_interval=wilson(good, len(deferred)),
    )

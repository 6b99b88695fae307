"""Calibrated confidence for one variant, and the threshold below which it asks the cloud. Pure.

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
from model_compiler.metrics import wilson

CURVE_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class DeferTarget:
    """At most `error` of all answers wrong, or at most `cloud` of all requests deferred (fractions)."""

    error: float | None = None
    cloud: float | None = 0.1

    def describe(self) -> str:
        """The target in words, as the manifest carries it."""
        if self.error is not None:
            return f"at most {100 * self.error:g} % error"
        return f"at most {100 * (self.cloud or 0.0):g} % cloud calls"


def fit_temperature(logits: npt.NDArray[Any], y: npt.NDArray[np.int64], *, apply_softmax: bool) -> float:
    """The temperature in [0.1, 20] with the least negative log-likelihood, by golden-section search on its log."""

    def loss(log_t: float) -> float:
        p = protocol.probabilities(logits, temperature=math.exp(log_t), apply_softmax=apply_softmax)
        return float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean())

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
    temperature = fit_temperature(logits, y, apply_softmax=apply_softmax)
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

    Args:
        sure: the confidence of each answer, (n,) in [0, 1].
        right: whether it is right, bool (n,).
        cloud_right: whether the cloud's answer is; None takes the cloud to be no better.
    """
    cloud_right = right if cloud_right is None else cloud_right
    points = [_point(sure, right, cloud_right, share) for share in CURVE_SHARES]
    fine = [_point(sure, right, cloud_right, share / 200) for share in range(201)]
    return Deferral(
        temperature=temperature, threshold=_choose(fine, target), target=target.describe(), curve=tuple(points)
    )


def _point(
    sure: npt.NDArray[Any], right: npt.NDArray[Any], cloud_right: npt.NDArray[Any], share: float
) -> DeferralPoint:
    """The curve at the threshold that defers at most `share` of the requests."""
    ordered = np.sort(sure)
    count = int(share * len(sure))
    threshold = float(ordered[count]) if count < len(ordered) else 1.0 + 1e-9
    deferred = sure < threshold
    kept = right[~deferred]
    combined = np.where(deferred, cloud_right, right)
    return DeferralPoint(
        threshold=threshold,
        cloud_share=float(deferred.mean()),
        edge_accuracy=float(kept.mean()) if len(kept) else 1.0,
        combined_accuracy=float(combined.mean()),
        edge_interval=wilson(int(kept.sum()), len(kept)) if len(kept) else (0.0, 1.0),
        combined_interval=wilson(int(combined.sum()), len(combined)),
    )


def _choose(points: list[DeferralPoint], target: DeferTarget) -> float:
    if target.error is not None:
        good = [point for point in points if 1 - point.combined_accuracy <= target.error]
        # Out of reach: the threshold that gives the least error, and of those the fewest calls.
        best = good or [max(points, key=lambda point: (point.combined_accuracy, -point.cloud_share))]
        return min(best, key=lambda point: point.cloud_share).threshold
    allowed = [point for point in points if point.cloud_share <= (target.cloud or 0.0)]
    return max(allowed, key=lambda point: point.cloud_share).threshold

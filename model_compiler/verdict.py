"""What was measured of a variant, in numbers and in plain words. Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.manifest import Verdict
from model_compiler.runners import Latency

WORSE_POINTS = 0.5  # a drop below this is not worth a note


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval for a proportion (95 % by default).

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share = hits / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def worst_class_drop(reference: npt.NDArray[Any], predicted: npt.NDArray[Any], y: npt.NDArray[np.int64]) -> float:
    """The largest loss of recall in one class, as a fraction; 0 when every class gains."""
    drops = [
        float(np.mean(reference[y == label] == label) - np.mean(predicted[y == label] == label))
        for label in np.unique(y)
    ]
    return max(0.0, *drops)


def judge(
    *,
    outputs: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    size_bytes: int,
    latency: Latency,
    reference_latency: Latency,
) -> Verdict:
    """The verdict on one variant from its outputs and the reference's, both (n, classes), and labels (n,)."""
    predicted, expected = outputs.argmax(axis=1), reference.argmax(axis=1)
    hits, total = int(np.sum(predicted == y)), len(y)
    value, base = hits / total, float(np.mean(expected == y))
    drop, ratio = 100 * (base - value), latency.p50 / reference_latency.p50
    notes = []
    if drop > WORSE_POINTS:
        notes.append(f"worse: accuracy is {drop:.1f} points below the reference")
    if ratio > 1.05:
        notes.append(f"slower: {ratio:.2f} times the reference's latency on this machine")
    return Verdict(
        metric="accuracy",
        value=value,
        interval=wilson(hits, total),
        reference=base,
        drop_points=drop,
        agreement=float(np.mean(predicted == expected)),
        worst_class_drop=worst_class_drop(expected, predicted, y),
        samples=total,
        size_bytes=size_bytes,
        latency_us_p50=round(latency.p50, 1),
        latency_us_p95=round(latency.p95, 1),
        latency_ratio=round(ratio, 3),
        notes=tuple(notes),
    )


def holds_logits(outputs: npt.NDArray[np.float32]) -> bool:
    """Whether the rows of (n, classes) are logits rather than probabilities already."""
    return bool(outputs.min() < 0 or np.abs(outputs.sum(axis=1) - 1).max() > 0.05)

"""Tells what was measured of a variant, in numbers and in plain words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from fleet.protocol.manifest import Verdict
from model_compiler.errors import DataError
from model_compiler.metrics import Metric, Outputs, first, predicted

WORSE_POINTS = 0.5  # a drop below this is not worth a note
SLOWER, HEAVIER = 1.05, 1.05  # ratios to the reference below this are noise
CHANCE = 0.5  # of an AUC

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Figures:
    """The costs of a variant. Latencies are microseconds at batch 1, `load_ms` milliseconds, the rest bytes."""

    size_bytes: int
    latency_us_p50: float
    latency_us_p95: float
    load_ms: float = 0.0
    peak_memory_bytes: int = 0


def recalls(outputs: Outputs, y: Array) -> dict[int, float]:
    """The share of each class's samples that are recognized."""
    best = predicted(first(outputs))
    return {int(label): float(np.mean(best[y == label] == label)) for label in np.unique(y)}


def worst_class_drop(reference: dict[int, float], recall: dict[int, float]) -> float:
    """The largest loss of recall in one class, as a fraction; 0 when every class gains."""
    return max(0.0, *(reference[label] - recall[label] for label in reference))


def agreement(outputs: Outputs, reference: Outputs, *, classes: bool) -> float:
    """Measure how much of the reference is kept, from 0 to 1.

    For classes the share of samples with the same best class; for other outputs the coefficient of determination of the
    variant's values against the reference's, over all outputs, floored at 0.
    """
    if classes:
        return float(np.mean(predicted(first(outputs)) == predicted(first(reference))))
    shares = []
    for mine, theirs in zip(outputs.values(), reference.values(), strict=True):
        shares.append(_equal(mine, theirs) if "O" in (mine.dtype.kind, theirs.dtype.kind) else _kept(mine, theirs))
    return float(min(shares))


def _equal(mine: Array, theirs: Array) -> float:
    same = np.asarray(mine == theirs, dtype=bool) if mine.shape == theirs.shape else np.zeros(1)
    return float(same.mean()) if same.size else 1.0


def _kept(mine: Array, theirs: Array) -> float:
    """The coefficient of determination over the numbers; 0 where NaN and infinities are not in the same places."""
    values, expected = mine.astype(np.float64), theirs.astype(np.float64)
    known = np.isfinite(expected)
    if not np.array_equal(values[~known], expected[~known], equal_nan=True) or not np.isfinite(values[known]).all():
        return 0.0
    values, expected = values[known], expected[known]
    error = float(((values - expected) ** 2).sum())
    if error == 0:
        return 1.0
    spread = float(((expected - expected.mean()) ** 2).sum())
    return max(0.0, 1 - error / spread) if spread else 0.0


def judge(
    metric: Metric,
    outputs: Outputs,
    reference: Outputs,
    y: Array,
    *,
    cost: Figures,
    reference_cost: Figures,
    bound: bool = False,
) -> Verdict:
    """The verdict on one variant.

    Args:
        metric: what outputs are measured by.
        outputs: the variant's, by name (n, …).
        reference: the outputs that it is held against, likewise.
        y: what is right (n, …).
        cost: of the variant.
        reference_cost: of what it is held against.
        bound: whether it says, too, what the drop is at most.

    Raises:
        DataError: the metric cannot be computed from these outputs.
    """
    value, interval = metric.measure(outputs, y)
    base = metric.measure(reference, y)[0] if reference is not outputs else value
    if not np.isfinite([value, base, *interval]).all():
        hint = "--metric exact compares such values"
        raise DataError(f"the {metric.name} is {value}, which is no verdict", hint=hint)
    class_drop = worst_class_drop(recalls(reference, y), recalls(outputs, y)) if metric.classes else 0.0
    ratio = cost.latency_us_p50 / reference_cost.latency_us_p50
    verdict = Verdict(
        metric=metric.name,
        value=value,
        interval=interval,
        reference=base,
        drop_points=metric.points(value, base),
        agreement=(
            metric.alike(outputs, reference)
            if metric.alike is not None
            else agreement(outputs, reference, classes=metric.classes)
        ),
        worst_class_drop=class_drop,
        samples=len(y),
        size_bytes=cost.size_bytes,
        latency_us_p50=round(cost.latency_us_p50, 1),
        latency_us_p95=round(cost.latency_us_p95, 1),
        latency_ratio=round(ratio, 3),
        notes=tuple(notes(metric, value, base, ratio, cost.size_bytes / reference_cost.size_bytes, most=interval[1])),
        higher_is_better=metric.higher_is_better,
        load_ms=round(cost.load_ms, 2),
        peak_memory_bytes=cost.peak_memory_bytes,
    )
    return replace(verdict, drop_bound=metric.most_points(outputs, reference, y)) if bound else verdict


def notes(metric: Metric, value: float, reference: float, ratio: float, size_ratio: float, *, most: float) -> list[str]:
    """Return the notes that a reader must not miss, in words: worse, worse than chance, slower, larger. `most`: the
    upper end of the metric's interval."""
    found = []
    drop = metric.points(value, reference)
    if drop > WORSE_POINTS and metric.higher_is_better:
        found.append(f"worse: {metric.name} is {drop:.1f} points below the reference")
    elif drop > WORSE_POINTS:
        found.append(f"worse: {metric.name} is {drop:.1f} % above the reference")
    if metric.name == "auc" and most < CHANCE:
        found.append(
            "turned round: the scores rank what is right below what is not; more must mean an anomaly, or the class"
        )
    if ratio > SLOWER:
        found.append(f"slower: {ratio:.2f} times the reference's latency on this machine")
    if size_ratio > HEAVIER:
        found.append(f"larger: {size_ratio:.2f} times the reference's bytes")
    return found


def holds_logits(outputs: Array) -> bool:
    """Return whether the rows of (n, classes) are logits rather than probabilities already."""
    return bool(outputs.min() < 0 or np.abs(outputs.sum(axis=1) - 1).max() > 0.05)

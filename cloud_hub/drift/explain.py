"""An alarm in words and numbers: how far, on which devices, and what moved in answers and confidence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from cloud_hub.drift.detector import Baseline, Bet
from cloud_hub.store.tables import WindowRow


class Summary(Struct, frozen=True, kw_only=True):
    """What a set of windows answered: counts per class, and the confidence histogram over [0, 1]."""

    classes: tuple[int, ...] = ()
    confidence: tuple[int, ...] = ()


def summarize(rows: Sequence[WindowRow]) -> Summary:
    """Add the answers of some windows."""
    return Summary(
        classes=_added([row.body.get("classes", ()) for row in rows]),
        confidence=_added([row.body.get("confidence", ()) for row in rows]),
    )


def explain(
    baseline: Baseline, normal: Summary, recent: Sequence[Bet], seen: Sequence[Summary], log_e: float, limit: float
) -> dict[str, Any]:
    """The alarm's detail; `reason` is the sentence that people read first."""
    devices: dict[str, list[float]] = defaultdict(list)
    for item in recent:
        devices[item.device_id].append(item.distance)
    over = sorted(
        device for device, values in devices.items() if np.mean(values) > baseline.margins.get(device, baseline.margin)
    )
    now = Summary(classes=_added([s.classes for s in seen]), confidence=_added([s.confidence for s in seen]))
    distance = float(np.mean([item.distance for item in recent]))
    before, after = _mean_confidence(normal.confidence), _mean_confidence(now.confidence)
    reason = (
        f"inputs lie {distance:.3f} from the baseline, {baseline.margin:.3f} is normal, "
        f"on {len(over)} of {len(devices)} devices"
    )
    if before is not None and after is not None:
        reason += f"; mean confidence went from {before:.2f} to {after:.2f}"
    return {
        "reason": reason,
        "distance": distance,
        "margin": baseline.margin,
        "devices": over,
        "windows": len(recent),
        "evidence": log_e,
        "limit": limit,
        "confidence": [before, after],
        "classes": _moved(normal.classes, now.classes),
    }


def _added(counts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    width = max((len(row) for row in counts), default=0)
    total = np.zeros(width, dtype=np.int64)
    for row in counts:
        total[: len(row)] += np.asarray(row, dtype=np.int64)
    return tuple(int(value) for value in total)


def _mean_confidence(histogram: Sequence[int]) -> float | None:
    total = sum(histogram)
    if not total:
        return None
    return sum((index + 0.5) / len(histogram) * count for index, count in enumerate(histogram)) / total


def _moved(before: Sequence[int], after: Sequence[int], most: int = 3) -> list[dict[str, float]]:
    """The classes whose share of the answers changed most."""
    if not sum(before) or not sum(after):
        return []
    width = max(len(before), len(after))
    old = np.pad(np.asarray(before, float), (0, width - len(before))) / sum(before)
    new = np.pad(np.asarray(after, float), (0, width - len(after))) / sum(after)
    order = np.argsort(-np.abs(new - old), kind="stable")[:most]
    return [{"class": int(i), "before": float(old[i]), "after": float(new[i])} for i in order]

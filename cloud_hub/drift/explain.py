"""An alarm in words and numbers: how far, on which devices, and what moved in answers and confidence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from cloud_hub.drift.company import Company
from cloud_hub.drift.streams import Stream
from cloud_hub.store.tables import WindowRow, WindowSum
from fleet.protocol.durations import DAY_S
from fleet.protocol.quantiles import merge, quantiles
from fleet.protocol.telemetry import QuantileData

SEASON_DAYS = 21, 365  # of a baseline: no season moves before, and after it has seen each once
VALUES, CLUSTERS = 4, 20  # of a summary in a monitor's document, which is written at every step
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
MEDIAN = SHARES.index(0.5)


class Summary(Struct, frozen=True, kw_only=True):
    """The answers in a set of windows: counts per class, the confidence histogram over [0, 1], and, where answers
    are numbers, a summary of each of the first of them."""

    classes: tuple[int, ...] = ()
    confidence: tuple[int, ...] = ()
    values: tuple[QuantileData, ...] = ()


def summarize(rows: Sequence[WindowRow | WindowSum]) -> Summary:
    """Add the answers of some windows, or of sums of them."""
    return added(
        [
            Summary(
                classes=tuple(row.body.get("classes", ())),
                confidence=tuple(row.body.get("confidence", ())),
                values=msgspec.convert(row.body.get("values", ()), tuple[QuantileData, ...]),
            )
            for row in rows
        ]
    )


def added(parts: Sequence[Summary]) -> Summary:
    """One summary of all."""
    width = min(max((len(part.values) for part in parts), default=0), VALUES)
    return Summary(
        classes=_added([part.classes for part in parts]),
        confidence=_added([part.confidence for part in parts]),
        values=tuple(
            merge((part.values[place] for part in parts if place < len(part.values)), CLUSTERS)
            for place in range(width)
        ),
    )


class MovedStreams(Struct, frozen=True, kw_only=True):
    """The subjects of an alarm: the streams over their limit, of them the `leading` one with its limit; the devices
    that moved, of how many; the moment since which they have (Unix seconds); and the `company` of the leading one, if
    it is a device."""

    streams: Sequence[Stream]
    leading: Stream
    limit: float
    devices: Sequence[str]
    of_devices: int
    since: float
    company: Company = Company()


def explain(
    found: MovedStreams, before: Sequence[WindowRow | WindowSum], after: Sequence[WindowRow], *, most: int
) -> dict[str, Any]:
    """The alarm's detail; `reason` is the sentence that people read first.

    Args:
        before, after: windows before and since the move.
        most: devices that are listed by name.
    """
    normal, now, leading = summarize(before), summarize(after), found.leading
    groups = sorted(stream.name for stream in found.streams if stream.kind == "group")
    old, new = _mean_confidence(normal.confidence), _mean_confidence(now.confidence)
    reason = _sentence(found, groups)
    if old is not None and new is not None:
        reason += f"; mean confidence went from {old:.2f} to {new:.2f}"
    values = _shifted(normal.values, now.values)
    if values:
        first = values[0]
        reason += f"; the median answer went from {first['before'][MEDIAN]:.4g} to {first['after'][MEDIAN]:.4g}"
    return {
        "kind": "inputs",
        "reason": reason,
        "distance": leading.distance,
        "margin": leading.margin,
        "devices": list(found.devices[:most]),
        "device_count": len(found.devices),
        "of_devices": found.of_devices,
        "groups": groups,
        "fleet": any(stream.kind == "fleet" for stream in found.streams),
        "since": found.since,
        "others": found.company.others,
        "others_moved": found.company.moved,
        "season": may_be_season(leading),
        "provisional": all(stream.state != "steady" for stream in found.streams),
        "windows": len(after),
        "window_ids": [_newest(before), _newest(after)],
        "evidence": leading.evidence,
        "limit": found.limit,
        "confidence": [old, new],
        "classes": _moved(normal.classes, now.classes),
        "values": values,
    }


def _sentence(found: MovedStreams, groups: Sequence[str]) -> str:
    leading = found.leading
    words = f"inputs have moved by {leading.distance:.3f} since {_moment(found.since)}"
    words += f" on {len(found.devices)} of {found.of_devices} devices"
    if len(found.devices) == 1:
        words += f" ({found.devices[0]})"
    if any(stream.kind == "fleet" for stream in found.streams):
        words += ", in the fleet as a whole"
    elif groups:
        words += f", in {', '.join(groups[:3])}" + (" and others" if len(groups) > 3 else "")
    if all(stream.state != "steady" for stream in found.streams):
        words += "; provisional: the baseline does not say yet what is usual"
    elif may_be_season(leading):
        age = (leading.last - leading.began) / DAY_S
        words += f"; it may be a season: the baseline, {age:.0f} days old, knows none"
    if found.company.others:
        words += f"; of {found.company.others} other devices {found.company.moved} moved as well"
    return words


def may_be_season(stream: Stream) -> bool:
    """Tell whether a season may have moved a stream: its baseline is weeks old, and not a year."""
    least, most = SEASON_DAYS
    return stream.state == "steady" and least * DAY_S <= stream.last - stream.began < most * DAY_S


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _shifted(before: Sequence[QuantileData], after: Sequence[QuantileData]) -> list[dict[str, Any]]:
    """The quantiles of each value of the answers, before and after, for the shares `SHARES`."""
    return [
        {"value": place, "before": list(quantiles(old, SHARES)), "after": list(quantiles(new, SHARES))}
        for place, (old, new) in enumerate(zip(before, after, strict=False))
        if old.means and new.means
    ]


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


def _newest(rows: Sequence[WindowRow | WindowSum]) -> int:
    """The largest number of some windows; 0 without any, or where only their sums are kept."""
    return max((row.id or 0 for row in rows if isinstance(row, WindowRow)), default=0)


def _moved(before: Sequence[int], after: Sequence[int], most: int = 3) -> list[dict[str, float]]:
    """The classes whose share of the answers changed most."""
    if not sum(before) or not sum(after):
        return []
    width = max(len(before), len(after))
    old = np.pad(np.asarray(before, float), (0, width - len(before))) / sum(before)
    new = np.pad(np.asarray(after, float), (0, width - len(after))) / sum(after)
    order = np.argsort(-np.abs(new - old), kind="stable")[:most]
    return [{"class": int(i), "before": float(old[i]), "after": float(new[i])} for i in order]

"""Many windows as one row that says the same of an hour or a day, as far as sums can. Pure.

Counts and sketches are added; summaries of answers merge (`fleet.protocol.quantiles`). Of inputs the shares, means and
spreads are those of all rows together, the least and the largest number stay, and the quantiles between them are the
mean of the windows', which is near where windows are alike. Pairs are not kept: they count with their rollout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import msgspec
import numpy as np

from fleet.protocol.bounds import LARGEST
from fleet.protocol.errors import MalformedError
from fleet.protocol.figures import FINITE, HIGH, LOW, MEAN, MOST_INPUTS, SPREAD, figures_of
from fleet.protocol.figures import LARGEST as MOST_FIGURE
from fleet.protocol.quantiles import merge as merge_quantiles
from fleet.protocol.sketch import merge as merge_sketches
from fleet.protocol.telemetry import VALUES, InputSummary, QuantileData, SketchData

LATE_S = 30 * 86_400.0  # that a window comes after its end: what is told of before is its clock's fault
NAMES = 64  # counters, or reasons of refusal, that one row has


class Part(NamedTuple):
    """The content of a window, an hour or a day: `body` is a window's (`telemetry.Window`) without its sketch.

    Times are Unix seconds by the device's clock, `windows` how many are in it. In the body of a sum `looked_at` is how
    many of the sketched rows were looked at for `outlying` ones.
    """

    started_at: float
    ended_at: float
    windows: int
    body: Mapping[str, Any]
    sketch: SketchData | None


def beginning(ended_at: float, arrived_by: float, span_s: int) -> int:
    """Return the beginning of the hour or day that a window counts in: by the device's clock, but not after it had
    arrived, and by its arrival where the device's clock is far behind, as one without a battery that begins in 1970."""
    return int((ended_at if arrived_by - LATE_S <= ended_at <= arrived_by else arrived_by) // span_s * span_s)


def summed(parts: Sequence[Part]) -> Part:
    """One part that stands for all of them, which are of one device, model and release.

    Sketches that do not fit the first one are left out: of another encoder, or not one that an encoder makes.
    """
    bodies = [part.body for part in parts]
    body = {
        "counters": _added(body.get("counters", {}) for body in bodies),
        "refusals": _added(body.get("refusals", {}) for body in bodies),
        "values": _values(bodies),
        "inputs": _inputs(bodies),
        "variant": _same(bodies, "variant"),
        "auditor": _same(bodies, "auditor"),
        **{name: _columns(bodies, name) for name in ("latency_us", "confidence", "classes")},
        **_outlying(parts),
    }
    return Part(
        started_at=min(part.started_at for part in parts),
        ended_at=max(part.ended_at for part in parts),
        windows=sum(part.windows for part in parts),
        body=body,
        sketch=_sketch([part.sketch for part in parts if part.sketch is not None]),
    )


def _sketch(sketches: Sequence[SketchData]) -> SketchData | None:
    found: SketchData | None = None
    for sketch in sketches:
        if found is None:
            found = sketch
            continue
        try:
            found = merge_sketches(found, sketch)
        except MalformedError:
            continue
    return found


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in counts:
        for name, count in part.items():
            if name in found or len(found) < NAMES:
                found[name] = min(found.get(name, 0) + count, LARGEST)
    return found


def _columns(bodies: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    rows = [body.get(name, ()) for body in bodies]
    return [_bounded(counts) for counts in zip_longest(*rows, fillvalue=0)]


def _values(bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
    told = [msgspec.convert(body.get("values", ()), tuple[QuantileData, ...]) for body in bodies]
    width = min(max(map(len, told), default=0), VALUES)
    merged = [merge_quantiles(one[place] for one in told if place < len(one)) for place in range(width)]
    return [msgspec.to_builtins(one) for one in merged]


def _inputs(bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
    by_name: dict[str, list[InputSummary]] = {}
    for body in bodies:
        for summary in msgspec.convert(body.get("inputs", ()), tuple[InputSummary, ...]):
            if summary.name in by_name or len(by_name) < MOST_INPUTS:
                by_name.setdefault(summary.name, []).append(summary)
    return [msgspec.to_builtins(_input(name, summaries)) for name, summaries in by_name.items()]


def _input(name: str, summaries: Sequence[InputSummary]) -> InputSummary:
    """One summary of an input; of figures only those count that are told in the same way as the first."""
    size = len(summaries[0].figures)
    return InputSummary(
        name=name,
        rows=_bounded(one.rows for one in summaries),
        nan=_bounded(one.nan for one in summaries),
        infinite=_bounded(one.infinite for one in summaries),
        refused=_added(one.refused for one in summaries),
        figures=_figures([one for one in summaries if len(one.figures) == size]),
    )


def _figures(summaries: Sequence[InputSummary]) -> bytes:
    tables = np.stack([figures_of(one) for one in summaries])  # (windows, figures, columns)
    rows = np.array([one.rows for one in summaries], np.float64)[:, None]
    with np.errstate(all="ignore"):
        finite = np.nan_to_num(tables[..., FINITE]) * rows  # finite values of each window and figure
        weight = np.where(finite > 0, finite, np.nan)
        share = weight / np.nansum(weight, axis=0)
        found = np.nansum(tables * share[..., None], axis=0)
        mean = found[:, MEAN]
        spread = np.nansum(share * (tables[..., SPREAD] ** 2 + tables[..., MEAN] ** 2), axis=0) - mean**2
        found[:, SPREAD] = np.sqrt(np.maximum(spread, 0.0))
        found[:, LOW] = np.fmin.reduce(tables[..., LOW], axis=0)
        found[:, HIGH] = np.fmax.reduce(tables[..., HIGH], axis=0)
        found[finite.sum(axis=0) == 0] = np.nan
        found[:, FINITE] = finite.sum(axis=0) / rows.sum() if rows.sum() else np.nan
    packed: bytes = np.clip(found, -MOST_FIGURE, MOST_FIGURE).astype("<f4").tobytes()
    return packed


def _outlying(parts: Sequence[Part]) -> dict[str, int]:
    told = [(part, part.body.get("outlying", -1)) for part in parts]
    told = [(part, far) for part, far in told if far >= 0]
    if not told:
        return {"outlying": -1, "looked_at": 0}
    looked = _bounded(part.body.get("looked_at", part.sketch.count if part.sketch else 0) for part, _ in told)
    return {"outlying": _bounded(far for _, far in told), "looked_at": looked}


def _bounded(counts: Iterable[int]) -> int:
    return min(sum(counts), LARGEST)


def _same(bodies: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Return the value that all have; None where they differ."""
    found = {body.get(name) for body in bodies}
    return found.pop() if len(found) == 1 else None

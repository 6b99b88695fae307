"""The features that moved. Pure: summaries of inputs before an alarm's moment are compared with those after it.

Each figure's mean after the move is compared with that before it, in spreads of before (of rows, not of windows); so is
its spread, and the share of values that are NaN. Named are those that moved most. It explains an alarm and raises none.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from cloud_hub.drift.quality import feature_name
from fleet.protocol.figures import FINITE, MEAN, SPREAD, Told, figures_of
from fleet.protocol.telemetry import InputSummary

Floats = npt.NDArray[np.float64]

MOST = 5  # features that are named
LEAST = 0.25  # spreads; of less nothing is said
STRETCH = 0.3  # of the spread's logarithm that counts as much as `LEAST`
GONE = 0.02  # of the values that counts as much


class MovedFeature(Struct, frozen=True, kw_only=True):
    """One feature: its means and spreads, and its shares of finite values, before and after; `size` orders them."""

    tensor: str
    place: int
    name: str
    before: float | None
    after: float | None
    spread_before: float | None
    spread_after: float | None
    finite_before: float
    finite_after: float
    size: float


def moved(
    before: Sequence[Sequence[InputSummary]],
    after: Sequence[Sequence[InputSummary]],
    plan: Sequence[Told],
    names: Mapping[str, Sequence[str]],
    left_out: Collection[tuple[str, int]] = (),
) -> list[MovedFeature]:
    """The features that moved most, at most `MOST`.

    Args:
        before: the summaries of each window before the move.
        after: of each since then.
        plan: how the release's inputs are told.
        names: the features' own names by input, where they are known.
        left_out: input and place of features of which nothing is said.
    """
    told = {one.tensor: one for one in plan}
    old, new = (pooled(windows, told) for windows in (before, after))
    found = [
        _compared(tensor, place, feature_name(tensor, place, names, told), old[tensor][place], new[tensor][place])
        for tensor in sorted(old.keys() & new.keys())
        for place in range(len(old[tensor]))
    ]
    kept = [one for one in found if one.size >= 1.0 and (one.tensor, one.place) not in left_out]
    return sorted(kept, key=lambda one: -one.size)[:MOST]


def pooled(windows: Iterable[Sequence[InputSummary]], told: Mapping[str, Told]) -> dict[str, Floats]:
    """By input (f, 3): mean, spread and share of finite values over the rows of all windows; NaN without any."""
    sums: dict[str, Floats] = defaultdict(lambda: np.zeros(0))
    for summaries in windows:
        for summary in summaries:
            one = told.get(summary.name)
            table = figures_of(summary)
            if one is None or len(table) != len(one.names) or not summary.rows:
                continue
            finite = np.nan_to_num(table[:, FINITE]) * summary.rows
            mean, spread = np.nan_to_num(table[:, MEAN]), np.nan_to_num(table[:, SPREAD])
            part = np.stack(
                [finite, finite * mean, finite * (mean**2 + spread**2), np.full(len(table), summary.rows)], 1
            )
            known = sums[summary.name]
            sums[summary.name] = part if not known.size else known + part
    found = {}
    with np.errstate(all="ignore"):
        for name, total in sums.items():
            mean = total[:, 1] / total[:, 0]
            spread = np.sqrt(np.maximum(total[:, 2] / total[:, 0] - mean**2, 0.0))
            found[name] = np.stack([mean, spread, total[:, 0] / total[:, 3]], 1)
    return found


def in_words(found: Sequence[MovedFeature]) -> str:
    """The two or three that moved most, as in `temperature 21.3 → 35.1`."""
    return ", ".join(_sentence(one) for one in found[:3])


def _sentence(one: MovedFeature) -> str:
    if one.before is None or one.after is None or one.finite_before - one.finite_after > 0.5:
        return f"{one.name} finite in {100 * one.finite_before:.0f} → {100 * one.finite_after:.0f} %"
    before, after = one.spread_before, one.spread_after
    if before is not None and after is not None and abs(one.before - one.after) < LEAST * before:
        return f"spread of {one.name} {before:.4g} → {after:.4g}"
    return f"{one.name} {one.before:.4g} → {one.after:.4g}"


def _compared(tensor: str, place: int, name: str, old: Floats, new: Floats) -> MovedFeature:
    sizes = [abs(new[2] - old[2]) / GONE]
    if np.isfinite([*old[:2], *new[:2]]).all():
        scale = max(old[1], 1e-6 * abs(old[0]), 1e-12)
        sizes.append(abs(new[0] - old[0]) / scale / LEAST)
        if old[1] > 0 and new[1] > 0:
            sizes.append(abs(math.log(new[1] / old[1])) / STRETCH)
    return MovedFeature(
        tensor=tensor,
        place=place,
        name=name,
        before=_number(old[0]),
        after=_number(new[0]),
        spread_before=_number(old[1]),
        spread_after=_number(new[1]),
        finite_before=float(old[2]),
        finite_after=float(new[2]),
        size=float(min(max(sizes), 1e9)),
    )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

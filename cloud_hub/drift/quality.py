"""Is the data broken? Pure: what a window says of its inputs, against what the release was trained on.

Four things can be wrong with an input, or with one feature of it, on one device:

    NaN       values that are NaN or infinite, also of requests that were refused for it; more than in training
    constant  one value throughout a window, where other windows vary: a sensor that is stuck
    range     beyond the least and largest value of the training data, by more than a twentieth of their distance
    unit      half of a window lies outside of nine tenths of the training data and is 5 times as large or small;
              not watched of numbers that cross zero: nine tenths of the training data have both signs, or half are 0

Each is a share of a window's rows, or 1 or 0 for the whole window, and is bet on device by device (`bets`): one
device's forged numbers name that device only. `NaN` is held to the training data, or, where that is not known, to
habit, and `constant` to this: what the device itself did in the first period of the release, and all devices in the
worst hour of their days. So a sensor that has been stuck from the first is not found, and one that sleeps at night is
left in peace. Without the training data the other two are not watched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from fleet.protocol.figures import (
    FINITE,
    HIGH,
    LOW,
    MEDIAN,
    Q05,
    Q95,
    SHARES,
    SPREAD,
    Told,
    TrainingProfile,
    figures_of,
)
from fleet.protocol.telemetry import InputSummary

Floats = npt.NDArray[np.float64]
Problem = Literal["NaN", "constant", "range", "unit"]
PROBLEMS: tuple[Problem, ...] = get_args(Problem)
LEAST = {"NaN": 0.02, "constant": 0.1, "range": 0.02, "unit": 0.1}  # of a window; less is not worth a look
MOST = 0.9  # of a margin
LEAST_ROWS = 20  # of a window by which anything but NaN is judged
BEYOND = 0.05  # of the training data's range
TIMES = 5.0
WHOLE = -1  # the place of what is said of an input as a whole


class Key(NamedTuple):
    """The subject of one watch on a device: a problem of an input, or of the figure at `place` of it."""

    tensor: str
    place: int
    problem: Problem


class ProblemShare(NamedTuple):
    """A window's share of a problem; `margin` is what is normal of it by the training data, None where nobody knows."""

    share: float
    normal: float | None


def seen_in(
    inputs: Sequence[InputSummary], requests: int, plan: Sequence[Told], profile: TrainingProfile | None
) -> dict[Key, ProblemShare]:
    """Return the problems that one window shows, with their shares.

    Args:
        inputs: the window's summaries.
        requests: how many the window counted, refused ones included.
        plan: how the release's inputs are told.
        profile: what the release was trained on.
    """
    known = {told.tensor: told for told in plan}
    trained = {summary.name: summary for summary in profile.inputs} if profile is not None else {}
    found: dict[Key, ProblemShare] = {}
    for summary in inputs:
        told = known.get(summary.name)
        table = figures_of(summary)
        if told is None or len(table) != len(told.names):  # no device of ours sends it
            continue
        reference = trained.get(summary.name)
        usual = figures_of(reference) if reference is not None and len(reference.figures) else None
        if usual is not None and len(usual) != len(table):
            usual = None
        found.update(_nan(summary, told, usual, reference, requests))
        if summary.rows >= LEAST_ROWS:
            found.update(_constant(told, table, usual))
            if usual is not None and reference is not None:
                found.update(_range(told, table, usual, reference.rows))
                found.update(_unit(told, table, usual))
    return found


def margin_of(key: Key, normal: float, windows: int = 0) -> float | None:
    """The share under which a problem is no problem; None where so much is usual that nothing more would show.

    Args:
        key: what is watched.
        normal: what is usual: by the training data, or
        windows: by so many windows, in which it may be off by three standard errors.
    """
    error = 3.0 * math.sqrt(max(normal * (1.0 - normal), 1.0 / windows) / windows) if windows else 0.0
    margin = normal + LEAST[key.problem] + error
    return margin if margin <= MOST else None


def _nan(
    summary: InputSummary, told: Told, usual: Floats | None, reference: InputSummary | None, requests: int
) -> Iterator[tuple[Key, ProblemShare]]:
    table = figures_of(summary)
    refused = sum(summary.refused.values())
    total = max(requests, refused, 1)
    served = total - refused
    if told.kind != "values" or "" in summary.refused:
        rows = (summary.nan + summary.infinite) / max(summary.rows, 1) if told.kind != "values" else 0.0
        count = refused if told.kind != "values" else summary.refused[""]
        normal = (reference.nan + reference.infinite) / max(reference.rows, 1) if reference is not None else None
        yield Key(told.tensor, WHOLE, "NaN"), ProblemShare((count + served * min(rows, 1.0)) / total, normal)
    if told.kind == "values":
        for place in range(len(table)):
            missing = 1.0 - float(table[place, FINITE]) if summary.rows else 0.0
            share = (summary.refused.get(str(place), 0) + served * missing) / total
            normal = 1.0 - float(usual[place, FINITE]) if usual is not None else None
            yield Key(told.tensor, place, "NaN"), ProblemShare(min(share, 1.0), normal)


def _constant(told: Told, table: Floats, usual: Floats | None) -> Iterator[tuple[Key, ProblemShare]]:
    """Yield inputs that do not vary. One that never varied in training is no sensor; one without finite values is
    NaN."""
    still = table[:, SPREAD] <= 1e-6 * np.maximum(np.abs(table[:, MEDIAN]), 1e-12)
    varies = usual[:, SPREAD] > 0 if usual is not None else np.ones(len(table), bool)
    if told.kind != "values":
        if varies.any():
            yield Key(told.tensor, WHOLE, "constant"), ProblemShare(float(still[varies].all()), None)
        return
    for place in np.flatnonzero(varies & np.isfinite(table[:, SPREAD])):
        yield Key(told.tensor, int(place), "constant"), ProblemShare(float(still[place]), None)


def _range(told: Told, table: Floats, usual: Floats, rows: int) -> Iterator[tuple[Key, ProblemShare]]:
    spare = np.maximum(BEYOND * (usual[:, HIGH] - usual[:, LOW]), 1e-6 * np.abs(usual[:, HIGH]))
    for place in np.flatnonzero(np.isfinite(table[:, LOW]) & np.isfinite(usual[:, LOW])):
        low, high = usual[place, LOW] - spare[place], usual[place, HIGH] + spare[place]
        outside = share_below(table[place, LOW:], low) + 1.0 - share_below(table[place, LOW:], high, least=False)
        # Few training rows do not reach their ends: of n, another one lies beyond both with 2 / (n + 1).
        yield Key(told.tensor, int(place), "range"), ProblemShare(float(outside), min(4.0 / max(rows, 1), 0.5))


def _unit(told: Told, table: Floats, usual: Floats) -> Iterator[tuple[Key, ProblemShare]]:
    if told.kind == "signal":  # a quiet room is no other unit
        return
    # Numbers on both sides of 0 have no size that another unit would change: their median is small by chance. Those
    # that are often 0 (a load, rain) have one, unless half of them are.
    one_side = (usual[:, Q05] * usual[:, Q95] >= 0) & (np.abs(usual[:, MEDIAN]) > 0)
    for place in np.flatnonzero(np.isfinite(table[:, MEDIAN]) & one_side):
        middle = table[place, MEDIAN]
        outside = not usual[place, Q05] <= middle <= usual[place, Q95]
        yield Key(told.tensor, int(place), "unit"), ProblemShare(float(outside and _other(middle, usual[place])), 0.0)


def times(middle: float, usual: Floats) -> float:
    """Return how many times as large a median is as the training data's."""
    return abs(middle) / abs(float(usual[MEDIAN]))


def _other(middle: float, usual: Floats) -> bool:
    ratio = times(middle, usual)
    return ratio >= TIMES or ratio <= 1 / TIMES


def share_below(quantiles: Floats, value: float, *, least: bool = True) -> float:
    """Return the share of rows below a value, as far as the five quantiles `figures.SHARES` tell.

    Args:
        quantiles: (5,) values.
        value: in their unit.
        least: the least that it can be; else the largest.
    """
    count = int((quantiles < value).sum() if least else (quantiles <= value).sum())
    if count == 0:
        return 0.0
    if count == len(SHARES):
        return 1.0
    return SHARES[count - 1] if least else SHARES[count]


def words(key: Key, share: float, names: Mapping[str, Sequence[str]], told: Mapping[str, Told]) -> str:
    """Describe a finding to people, as in `input 'x', temperature: 31 % NaN or infinite`."""
    what = f"input {key.tensor!r}"
    if key.place != WHOLE:
        what += f", {feature_name(key.tensor, key.place, names, told)}"
    said = {
        "NaN": f"{100 * share:.0f} % NaN or infinite",
        "constant": f"stuck at one value in {100 * share:.0f} % of windows",
        "range": f"{100 * share:.0f} % or more outside of the training range",
        "unit": f"5 times as large or small as in training in {100 * share:.0f} % of windows (another unit?)",
    }
    return f"{what}: {said[key.problem]}"


def feature_name(tensor: str, place: int, names: Mapping[str, Sequence[str]], told: Mapping[str, Told]) -> str:
    """Return the name of a figure: the data's own, else the protocol's (`brightness`), else its place."""
    own = names.get(tensor, ())
    if place < len(own):
        return own[place]
    known = told.get(tensor)
    if known is None or place >= len(known.names):
        return f"feature {place}"
    return f"feature {place}" if known.kind == "values" else known.names[place]

"""A sample's inputs as lines over time, or as a table of named numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fleet.protocol.errors import MalformedError
from fleet.protocol.figures import SIGNAL, channels
from fleet.protocol.messages import Array
from fleet.protocol.tensors import from_array

POINTS = 240  # of a drawn line: each is the least and the largest of its part in turn
LINES = 6  # of one input
WIDTH, HEIGHT = 480, 120  # of the drawing, in its own units
LEAST = 16  # values over time: fewer are numbers of a table
NUMBERS = 24  # of a table


class InputSeries(Struct, frozen=True, kw_only=True):
    """An input over time: `lines` are SVG points of at most `LINES` channels within `WIDTH` × `HEIGHT`, `low` and
    `high` what their bottom and top mean, `length` how many values a line stands for, `more` how many are not drawn."""

    name: str
    lines: list[str]
    low: float
    high: float
    length: int
    more: int = 0


def series_of(inputs: Sequence[Array]) -> list[InputSeries]:
    """The inputs that are numbers over time: (1, n) or (n,), or (1, n, c) with few channels; no images."""
    found = []
    for array in inputs:
        table = over_time(array)
        if table is not None:
            found.append(_drawn(array.name, table))
    return found


def numbers_of(inputs: Sequence[Array]) -> list[tuple[str, str]]:
    """The inputs that are a few numbers, each with its name and place; at most `NUMBERS` in all."""
    found: list[tuple[str, str]] = []
    for array in inputs:
        try:
            values = from_array(array)
        except MalformedError:
            continue
        if values.dtype.kind in "fiub" and 0 < values.size < LEAST:
            flat = values.reshape(-1).tolist()
            names = [array.name] if len(flat) == 1 else [f"{array.name} {place + 1}" for place in range(len(flat))]
            found += [(name, f"{value:.5g}") for name, value in zip(names, flat, strict=True)]
    return found[:NUMBERS]


def over_time(array: Array) -> npt.NDArray[np.float64] | None:
    """An input of one row as (time, channels); None where it is nothing over time."""
    try:
        values = from_array(array)
    except MalformedError:
        return None
    if values.dtype.kind not in "fiub":
        return None
    row = values[0] if values.ndim > 1 and len(values) == 1 else values
    if row.ndim == 2 and channels(row.shape) is None and min(row.shape) <= SIGNAL:
        row = row if row.shape[0] >= row.shape[1] else row.T
    elif row.ndim != 1:
        return None
    table = np.asarray(row, np.float64).reshape(len(row), -1)
    return table if len(table) >= LEAST else None


def _drawn(name: str, table: npt.NDArray[np.float64]) -> InputSeries:
    shown = np.where(np.isfinite(table), table, np.nan)[:, :LINES]
    good = shown[np.isfinite(shown)]
    low, high = (float(good.min()), float(good.max())) if good.size else (0.0, 0.0)
    return InputSeries(
        name=name,
        lines=[_points(column, low, high) for column in shown.T],
        low=low,
        high=high,
        length=len(table),
        more=max(0, table.shape[1] - LINES),
    )


def _points(column: npt.NDArray[np.float64], low: float, high: float) -> str:
    """The line in SVG's words; of a long one, of each part the least and then the largest, so that no peak is lost."""
    places = np.arange(len(column), dtype=np.float64)
    if len(column) > 2 * POINTS:
        edges = np.linspace(0, len(column), POINTS + 1).astype(int)
        pairs = [(start, part) for start, end in pairwise(edges) if len(part := column[start:end])]
        kept = [(start + np.nanargmin(part), start + np.nanargmax(part)) for start, part in pairs if not _empty(part)]
        places = np.array([float(place) for pair in kept for place in sorted(pair)])
    good = [(place, column[int(place)]) for place in places if np.isfinite(column[int(place)])]
    across, span = max(1, len(column) - 1), high - low
    return " ".join(
        f"{WIDTH * place / across:.1f},{HEIGHT - HEIGHT * ((value - low) / span if span else 0.5):.1f}"
        for place, value in good
    )


def _empty(part: npt.NDArray[np.float64]) -> bool:
    return bool(np.isnan(part).all())

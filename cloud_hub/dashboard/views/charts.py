"""Bars and lines over time as shapes for a template: the server places them, the page's script tells local time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from cloud_hub.dashboard.words import iso, moment
from fleet.protocol.durations import DAY_S

WIDTH, HEIGHT = 640, 170
NARROW = 340  # of charts that stand side by side
LEFT, BOTTOM, TOP = 46, 24, 16
STEPS = (1, 2, 5, 10)


class Bar(Struct, frozen=True, kw_only=True):
    """A rectangle; `kind` is what it counts, `title` says when and how many."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str
    at: str


class Curve(Struct, frozen=True, kw_only=True):
    """The course of `kind` over time: `runs` are the points of polylines (`x,y x,y …`), between which it is not
    known."""

    kind: str
    runs: list[str]


class Tick(Struct, frozen=True, kw_only=True):
    """A mark on an axis: where, its text, and the moment that it stands for."""

    place: float
    text: str
    at: str = ""


class Chart(Struct, frozen=True, kw_only=True):
    """A drawing of `width` × `height`; `summary` says in words what it shows. Of a `daily` one each column is a day of
    UTC, which is another day west of Greenwich: its marks name that day in every zone."""

    bars: list[Bar]
    across: list[Tick]
    up: list[Tick]
    kinds: list[str]
    summary: str
    daily: bool = False
    curves: list[Curve] = []
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    floor: int = HEIGHT - BOTTOM


def stacked(
    columns: Mapping[int, Mapping[str, int]], kinds: Sequence[str], *, begins: int, ends: int, span_s: int
) -> Chart:
    """Bars of counts, one column for each span of time.

    Args:
        columns: by the second in which a span begins (Unix), its counts by kind.
        kinds: what is stacked, the lowest first.
        begins, ends: the axis; both are multiples of the span.
    """
    slots = max(1, (ends - begins) // span_s)
    step = (WIDTH - LEFT) / slots
    top = ceiling(max((sum(column.get(kind, 0) for kind in kinds) for column in columns.values()), default=0))
    scale = (HEIGHT - BOTTOM - TOP) / top
    bars = []
    for at, column in sorted(columns.items()):
        if not begins <= at < ends:
            continue
        x, y = LEFT + (at - begins) / span_s * step, float(HEIGHT - BOTTOM)
        for kind in kinds:
            number = column.get(kind, 0)
            tall = number * scale
            y -= tall
            if number:
                title = f"{moment(at)}: {number:,} {kind}"
                bar = Bar(x=x, y=y, width=max(step - 1, 0.5), height=tall, kind=kind, title=title, at=iso(at))
                bars.append(bar)
    totals = {kind: sum(column.get(kind, 0) for column in columns.values()) for kind in kinds}
    summary = ", ".join(f"{totals[kind]:,} {kind}" for kind in kinds)
    up = [Tick(place=HEIGHT - BOTTOM - part * top * scale, text=short(part * top)) for part in (0, 0.5, 1)]
    across, daily = _days(begins, ends, step / span_s), span_s >= DAY_S
    return Chart(bars=bars, across=across, up=up, kinds=list(kinds), summary=summary, daily=daily)


class Axis(NamedTuple):
    """The axes of lines: `begins` and `ends` are Unix seconds, `top` where the one that goes up ends at least, and
    `in_words` how it says a value."""

    begins: int
    ends: int
    top: float
    in_words: Callable[[float], str]


def drawn(series: Mapping[str, Mapping[int, float]], axis: Axis, *, span_s: int) -> Chart:
    """Lines that hold each value for a span of time, and break where there is none.

    Args:
        series: by its kind, a line's values by the second in which their span begins (Unix).
        axis: its ends are multiples of the span.
        span_s: seconds that a value holds.
    """
    within = range(axis.begins, axis.ends)
    shown = {kind: {at: line[at] for at in sorted(line) if at in within} for kind, line in series.items()}
    values = [value for line in shown.values() for value in line.values()] or [0.0]
    low = -ceiling(-min(values)) if min(values) < 0 else 0.0
    high = ceiling(max(values)) if max(values) > axis.top else axis.top
    step = (NARROW - LEFT) / max(1, (axis.ends - axis.begins) // span_s)
    floor, scale = HEIGHT - BOTTOM, (HEIGHT - BOTTOM - TOP) / (high - low)
    curves = []
    for kind, line in shown.items():
        runs: dict[int, list[str]] = {}
        for number, (at, value) in enumerate(line.items()):
            x, y = LEFT + (at - axis.begins) / span_s * step, floor - (value - low) * scale
            run = runs.setdefault(at // span_s - number, [])  # the same for spans that follow each other
            run += [f"{x:.1f},{y:.1f}", f"{x + step:.1f},{y:.1f}"]
        curves.append(Curve(kind=kind, runs=[" ".join(run) for run in runs.values()]))
    up = [Tick(place=floor - (at - low) * scale, text=axis.in_words(at)) for at in (low, (low + high) / 2, high)]
    across = _days(axis.begins, axis.ends, step / span_s)
    said = [_range(kind, line.values(), axis) for kind, line in shown.items() if line]
    return Chart(bars=[], across=across, up=up, kinds=list(shown), summary=", ".join(said), curves=curves, width=NARROW)


def _range(kind: str, values: Collection[float], axis: Axis) -> str:
    return f"{kind} {axis.in_words(min(values))} to {axis.in_words(max(values))}"


def _days(begins: int, ends: int, scale: float) -> list[Tick]:
    """Some six marks, at the beginning of days, or of hours of a short axis."""
    long = ends - begins
    spacing = next((days * DAY_S for days in (1, 2, 5, 7, 14, 30) if long <= 7 * days * DAY_S), 60 * DAY_S)
    spacing = spacing if long > 2 * DAY_S else 6 * 3600
    first = math.ceil(begins / spacing) * spacing
    form = "%H:%M" if spacing < DAY_S else "%d %b"
    return [Tick(place=LEFT + (at - begins) * scale, text=form, at=iso(at)) for at in range(first, ends, spacing)]


def ceiling(most: float) -> float:
    """The next number above that reads well: 1, 2, 5, 10, 20, …"""
    if most <= 1:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(most))
    return next(step * unit for step in STEPS if step * unit >= most)


def short(number: float) -> str:
    """`0`, `250`, `1.2k`, `3M`."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"

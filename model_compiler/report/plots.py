"""Small plots as SVG text: points, bars, lines with bands. Pure; the same figures give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44
COLOURS = ("#2a78d6", "#d9730d", "#2e9a6b", "#8e5bd0", "#c9406b", "#7a7a2a")  # told apart by the colour-blind, too


@dataclass(frozen=True)
class PlotSeries:
    """Points (x, y) under one name; `band` gives (low, high) of y for each point, or nothing."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = field(default=())


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round values."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / 5))
        step = next(step * factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _scale(values: Sequence[float], start: float, end: float, *, zero: bool = False) -> _Scale:
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-12:
        low, high = low - max(abs(low) * 0.05, 1e-3), high + max(abs(high) * 0.05, 1e-3)
    margin = 0.06 * (high - low)
    return _Scale(low if zero and low == 0 else low - margin, high + margin, start, end)


def _number(value: float) -> str:
    if abs(value) < 1e-12:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _frame(x: _Scale | None, y: _Scale, x_label: str, y_label: str, title: str, body: list[str]) -> str:
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
    ]
    for tick in y.ticks():
        at = y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    if x is not None:
        for tick in x.ticks():
            parts.append(
                f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_number(tick)}</text>'
            )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    parts.append(
        f'<text class="axis" transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return "\n".join([*parts, *body, "</svg>"])


def _y_scale(values: Sequence[float], names: int, *, zero: bool = False) -> _Scale:
    """Below the legend, which takes a line for every three names."""
    return _scale(values, HEIGHT - BOTTOM, TOP + 16 * -(-names // 3), zero=zero)


def points(series: Sequence[PlotSeries], *, x_label: str, y_label: str, title: str) -> str:
    """Draw one dot per point, with a legend; a band is drawn as an error bar."""
    ends = [end for one in series for pair in one.band for end in pair]
    x = _scale([px for one in series for px, _ in one.points], LEFT + 12, WIDTH - RIGHT - 12)
    y = _y_scale([py for one in series for _, py in one.points] + ends, len(series))
    body = []
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        for place, (px, py) in enumerate(one.points):
            if one.band:
                low, high = one.band[place]
                body.append(
                    f'<line stroke="{colour}" x1="{x(px):.1f}" x2="{x(px):.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>'
                )
            body.append(
                f'<circle fill="{colour}" cx="{x(px):.1f}" cy="{y(py):.1f}" r="5">'
                f"<title>{escape(one.name)}: {_number(px)}, {_number(py)}</title></circle>"
            )
        body.append(_legend(number, one.name))
    return _frame(x, y, x_label, y_label, title, body)


def lines(series: Sequence[PlotSeries], *, x_label: str, y_label: str, title: str) -> str:
    """Draw lines, their bands shaded, with a legend."""
    x = _scale([px for one in series for px, _ in one.points], LEFT, WIDTH - RIGHT)
    ends = [end for one in series for pair in one.band for end in pair]
    y = _y_scale([py for one in series for _, py in one.points] + ends, len(series))
    body = []
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        at = [x(px) for px, _ in one.points]
        if one.band:
            edge = [f"{a:.1f},{y(low):.1f}" for a, (low, _) in zip(at, one.band, strict=True)]
            edge += [f"{a:.1f},{y(high):.1f}" for a, (_, high) in reversed(list(zip(at, one.band, strict=True)))]
            body.append(f'<polygon fill="{colour}" opacity="0.15" points="{" ".join(edge)}"/>')
        path = " ".join(f"{a:.1f},{y(py):.1f}" for a, (_, py) in zip(at, one.points, strict=True))
        body.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        body.append(_legend(number, one.name))
    return _frame(x, y, x_label, y_label, title, body)


def bars(
    groups: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], *, x_label: str, y_label: str, title: str
) -> str:
    """Draw bars side by side for every group, with a legend; values may be negative."""
    y = _y_scale([value for _, values in series for value in values], len(series), zero=True)
    slot = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    thick = 0.8 * slot / max(len(series), 1)
    body = []
    for number, (name, values) in enumerate(series):
        for place, value in enumerate(values):
            left = LEFT + place * slot + 0.1 * slot + number * thick
            top, bottom = min(y(value), y(0)), max(y(value), y(0))
            label = f"{escape(name)}, {escape(groups[place])}: {_number(value)}"
            body.append(
                f'<rect fill="{COLOURS[number % len(COLOURS)]}" x="{left:.1f}" y="{top:.1f}" width="{thick:.1f}" '
                f'height="{bottom - top:.1f}"><title>{label}</title></rect>'
            )
        body.append(_legend(number, name))
    every = max(1, len(groups) // 16)
    for place in range(0, len(groups), every):
        body.append(
            f'<text x="{LEFT + (place + 0.5) * slot:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{escape(groups[place][:14])}</text>"
        )
    return _frame(None, y, x_label, y_label, title, body)


def _legend(number: int, name: str) -> str:
    left, top = LEFT + 165 * (number % 3), TOP + 16 * (number // 3)
    return (
        f'<rect fill="{COLOURS[number % len(COLOURS)]}" x="{left}" y="{top - 8}" width="10" height="10"/>'
        f'<text x="{left + 15}" y="{top + 1}">{escape(name)}</text>'
    )

"""Counters, gauges and latency histograms in Prometheus' text format (0.0.4), without a dependency."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Labels = tuple[str, ...]


class Metrics:
    """Written by the event loop only; `render` is what `/metrics` answers."""

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        """Begin without a series; `settle` brings in what is not counted yet before the figures are shown."""
        self._settle = settle
        self._counters: dict[str, tuple[str, Labels, dict[Labels, float]]] = {}
        self._gauges: list[tuple[str, str, Labels, Callable[[], Iterable[tuple[Labels, float]]]]] = []
        self._histograms: dict[str, tuple[str, Labels, dict[Labels, list[float]]]] = {}

    def counter(self, name: str, text: str, labels: Labels = ()) -> Callable[..., None]:
        """Make a counter, and return its `add(*label values, by=1.0)`; `name` ends in `_total`."""
        values: dict[Labels, float] = {} if labels else {(): 0.0}
        self._counters[name] = (text, labels, values)

        def add(*key: str, by: float = 1.0) -> None:
            values[key] = values.get(key, 0.0) + by

        return add

    def gauge(self, name: str, text: str, labels: Labels, read: Callable[[], Iterable[tuple[Labels, float]]]) -> None:
        """Make a gauge that is read when it is asked for."""
        self._gauges.append((name, text, labels, read))

    def histogram(self, name: str, text: str, labels: Labels) -> Callable[..., None]:
        """Make a histogram of seconds, and return its `observe(seconds, *label values)`."""
        values: dict[Labels, list[float]] = {}
        self._histograms[name] = (text, labels, values)

        def observe(seconds: float, *key: str) -> None:
            row = values.get(key)
            if row is None:
                row = values[key] = [0.0] * (len(SECONDS) + 2)
            row[bisect.bisect_left(SECONDS, seconds)] += 1
            row[-1] += seconds

        return observe

    def render(self) -> bytes:
        """All series as text."""
        self._settle()
        lines: list[str] = []
        for name, (text, labels, values) in self._counters.items():
            lines += _head(name, text, "counter")
            lines += [_line(name, labels, key, value) for key, value in sorted(values.items())]
        for name, text, labels, read in self._gauges:
            lines += _head(name, text, "gauge")
            lines += [_line(name, labels, key, value) for key, value in read()]
        for name, (text, labels, rows) in self._histograms.items():
            lines += _head(name, text, "histogram")
            for key, row in sorted(rows.items()):
                lines += _buckets(name, labels, key, row)
        return ("\n".join(lines) + "\n").encode()


def _buckets(name: str, labels: Labels, key: Labels, row: list[float]) -> list[str]:
    lines, total = [], 0.0
    for bound, count in zip([*map(str, SECONDS), "+Inf"], row, strict=False):
        total += count
        lines.append(_line(f"{name}_bucket", (*labels, "le"), (*key, bound), total))
    return [*lines, _line(f"{name}_sum", labels, key, row[-1]), _line(f"{name}_count", labels, key, total)]


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _line(name: str, labels: Labels, key: Labels, value: float) -> str:
    pairs = ",".join(f'{label}="{_escape(text)}"' for label, text in zip(labels, key, strict=True))
    shown = str(int(value)) if value == int(value) else repr(float(value))
    return f"{name}{{{pairs}}} {shown}" if pairs else f"{name} {shown}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

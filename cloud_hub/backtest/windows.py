"""Rows of the past become windows, as a device makes them (`edge_agent.telemetry.windows`). Pure.

A window opens with a row of its device and closes after so many seconds or rows. Its sketch and its summaries are of a
uniform draw of its rows (reservoir sampling: Vitter, "Random Sampling with a Reservoir", ACM TOMS 1985, algorithm R).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, to_builtins

from cloud_hub.backtest.columns import AnyRow, HistoricRow
from fleet.protocol.drift_encoder import Encoder, encodable_rows
from fleet.protocol.figures import MOST_FIGURES, Told, planned_figures, summarize_input
from fleet.protocol.manifest import Manifest
from fleet.protocol.sketch import Sketcher, outlying
from fleet.protocol.telemetry import DRAWN_ROWS, SketchData


class ClosedWindow(Struct, frozen=True, kw_only=True):
    """A window: `body` as in `telemetry.Window`."""

    device: str
    labels: tuple[tuple[str, str], ...]
    started_at: float
    ended_at: float
    rows: int
    body: dict[str, Any]
    sketch: SketchData | None


class _Open:
    """One open window."""

    def __init__(self, first: HistoricRow, classes: int) -> None:
        self.labels, self.started_at, self.rows = first.labels, first.at, 0
        self.drawn: list[Mapping[str, AnyRow]] = []
        self.refused: dict[str, Counter[int]] = {}
        self.classes = [0] * classes

    def add(self, row: HistoricRow, draw: random.Random) -> None:
        self.rows += 1
        self.labels = row.labels
        if row.refused is not None:
            tensor, place = row.refused
            self.refused.setdefault(tensor, Counter())[place if place < MOST_FIGURES else -1] += 1
            return
        if row.answer is not None:
            self.classes[row.answer] += 1
        if len(self.drawn) < DRAWN_ROWS:
            self.drawn.append(row.inputs)
        elif (place := draw.randrange(self.rows - self.refusals)) < DRAWN_ROWS:
            self.drawn[place] = row.inputs

    @property
    def refusals(self) -> int:
        return sum(counts.total() for counts in self.refused.values())


class WindowMaker:
    """Gathers rows and hands out windows.

    Args:
        manifest: of the release.
        encoder: of its sketch; None without one.
        window_s: seconds after which a window closes.
        most: rows after which it does.
        seed: of the draw.
    """

    def __init__(
        self, manifest: Manifest, encoder: Encoder | None, *, window_s: float, most: int, seed: int = 0
    ) -> None:
        self._told = planned_figures(manifest.inputs)
        self._encoder = encoder
        self._sketcher = Sketcher(encoder) if encoder is not None else None
        self._classes = len(manifest.labels)
        self._window_s, self._most = window_s, most
        self._draw = random.Random(seed)  # noqa: S311
        self._open: dict[str, _Open] = {}

    def add(self, row: HistoricRow) -> list[ClosedWindow]:
        """Count a row, in order of time; the windows that it closes."""
        closed = []
        found = self._open.get(row.device)
        if found is not None and row.at >= found.started_at + self._window_s:
            closed.append(self._close(row.device, found.started_at + self._window_s))
            found = None
        if found is None:
            found = self._open[row.device] = _Open(row, self._classes)
        found.add(row, self._draw)
        if found.rows >= self._most:
            closed.append(self._close(row.device, row.at))
        return closed

    def due(self, now: float) -> list[ClosedWindow]:
        """Take the windows that are over by a moment (Unix seconds)."""
        over = [name for name, one in self._open.items() if one.started_at + self._window_s <= now]
        return [self._close(name, self._open[name].started_at + self._window_s) for name in over]

    def rest(self) -> list[ClosedWindow]:
        """Take all that are open."""
        return [self._close(name, one.started_at + self._window_s) for name, one in list(self._open.items())]

    def _close(self, device: str, ended_at: float) -> ClosedWindow:
        one = self._open.pop(device)
        refused = one.refusals
        counters = {"requests": one.rows, "edge": one.rows - refused, "failed": refused, "refused": refused}
        body: dict[str, Any] = {"counters": {name: count for name, count in counters.items() if count}}
        if any(one.classes):
            body["classes"] = one.classes
        body["inputs"] = to_builtins([self._summary(told, one) for told in self._told])
        sketch, body["outlying"] = self._sketch(one)
        return ClosedWindow(
            device=device,
            labels=one.labels,
            started_at=one.started_at,
            ended_at=ended_at,
            rows=one.rows,
            body=body,
            sketch=sketch,
        )

    def _summary(self, told: Told, one: _Open) -> Any:
        refused: Counter[str] = Counter()
        for place, count in one.refused.get(told.tensor, Counter()).items():
            refused[str(place) if told.kind == "values" and place >= 0 else ""] += count
        return summarize_input(told, [row[told.tensor] for row in one.drawn], refused)

    def _sketch(self, one: _Open) -> tuple[SketchData | None, int]:
        """The sketch of the drawn rows, and how many of them are outlying; None and -1 without an encoder."""
        if self._encoder is None or self._sketcher is None:
            return None, -1
        tensor, encoder = self._encoder.tensor, self._encoder
        rows = encodable_rows(encoder, (row[tensor] if tensor else next(iter(row.values())) for row in one.drawn))
        if not len(rows):
            return None, -1
        self._sketcher.reset()
        self._sketcher.add(rows)
        data = self._sketcher.data()
        return data, min(int(outlying(encoder, rows).sum()), data.count)

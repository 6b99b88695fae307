"""A backtest from files to its outcome: rows in the order of their times, windows, and looks of the engine between."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from cloud_hub.backtest.answers import OperatorAnswer
from cloud_hub.backtest.columns import HistoricRow
from cloud_hub.backtest.replay import LoadedRelease, RaisedAlarm, Replay
from cloud_hub.backtest.windows import ClosedWindow, WindowMaker
from cloud_hub.errors import InvalidError
from fleet.api.drift import MonitorInfo, StreamInfo
from fleet.api.models import DriftPolicy

SAID = 100_000  # rows after which progress is said


class BacktestOptions(Struct, frozen=True, kw_only=True):
    """The settings of a backtest: `policy` is the drift part of a model's, `look_s` how often the engine looks."""

    policy: dict[str, Any]
    answer: OperatorAnswer
    window_s: float
    window_rows: int
    look_s: float

    @property
    def least(self) -> int:
        """The number of inputs that a window needs to count."""
        return DriftPolicy.model_validate(self.policy).min_count


class Outcome(Struct, kw_only=True):
    """The findings of a backtest. Times are Unix seconds. Of `windows`, `small` had too few inputs to count; of
    the labels of `labelled` rows, `labels_to_come` had not come by the end."""

    began: float = 0.0
    ended: float = 0.0
    rows: int = 0
    devices: int = 0
    refused: int = 0
    labelled: int = 0
    labels_to_come: int = 0
    windows: int = 0
    small: int = 0
    alarms: list[RaisedAlarm] = []
    steady_at: dict[tuple[str, str], float] = {}
    silences: list[tuple[float, float]] = []
    monitor: MonitorInfo | None = None
    streams: list[StreamInfo] = []


def run(
    rows: Iterable[HistoricRow],
    release: LoadedRelease,
    maker: WindowMaker,
    options: BacktestOptions,
    say: Callable[[int, float], None] = lambda rows, at: None,
) -> Outcome:
    """Run the engine over rows.

    Args:
        rows: in the order of their times.
        release: what the devices served.
        maker: makes windows of them.
        options: how.
        say: hears how many rows were read, and the moment of the last.

    Raises:
        InvalidError: there is no row.
    """
    with tempfile.TemporaryDirectory(prefix="edgeloop-backtest-") as folder:
        stepper: _Stepper | None = None
        try:
            for row in rows:
                stepper = stepper or _Stepper(Path(folder), release, maker, options, row.at)
                stepper.count(row)
                if stepper.outcome.rows % SAID == 0:
                    say(stepper.outcome.rows, row.at)
            if stepper is None:
                raise InvalidError("the files have no row", subject="FILE")
            return stepper.end()
        finally:
            if stepper is not None:
                stepper.replay.close()


class _Stepper:
    """Counts row after row, and lets the engine look whenever so much time has passed."""

    def __init__(
        self, folder: Path, release: LoadedRelease, maker: WindowMaker, options: BacktestOptions, began: float
    ) -> None:
        self._maker, self._options = maker, options
        self._least = options.least
        self._closed: list[ClosedWindow] = []
        self._next = began + options.look_s
        self.replay = Replay(folder, release, options.policy, began, options.answer)
        self.outcome = Outcome(began=began)

    def count(self, row: HistoricRow) -> None:
        """Count a row."""
        while row.at >= self._next:
            self._closed += self._maker.due(self._next)
            self._look(self._next)
            # Where nothing came for long there is nothing to look at between.
            behind = max(int((row.at - self._next) // self._options.look_s), 0)
            self._next += self._options.look_s * max(behind, 1)
        self._closed += self._maker.add(row)
        self.replay.hear_label(row)
        outcome = self.outcome
        outcome.rows += 1
        outcome.refused += row.refused is not None
        outcome.labelled += row.label is not None and row.answer is not None and row.refused is None
        outcome.ended = row.at

    def end(self) -> Outcome:
        """Close all windows, look once more, and say what came of it."""
        self._closed += self._maker.rest()
        last = max((one.ended_at for one in self._closed), default=self.outcome.ended)
        self._look(max(last, self._next))
        outcome, replay = self.outcome, self.replay
        outcome.alarms, outcome.steady_at, outcome.silences = replay.alarms, replay.steady_at, replay.silences
        outcome.labels_to_come = replay.labels_to_come
        outcome.monitor, outcome.streams, outcome.devices = replay.monitor(), replay.streams(), replay.devices
        return outcome

    def _look(self, now: float) -> None:
        for one in self._closed:
            size = one.sketch.count if one.sketch is not None else one.rows
            self.outcome.windows += 1
            self.outcome.small += size < self._least
        self.replay.take(self._closed)
        self._closed = []
        self.replay.look(now)

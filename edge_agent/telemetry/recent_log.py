"""The agent's latest log lines, kept in memory for an operator who asks (`fleet device logs`): bounded, and without
secrets (`fleet.console.hiding`)."""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, to_builtins

from edge_agent.errors import UsageError
from fleet.console.hiding import hidden

LINES = 1000
BYTES = 128 << 10  # of all lines together, as UTF-8
LINE = 500  # characters of a message
READ = 4096  # characters of a message, and of a trace's end, in which secrets are looked for; the rest is not kept
TRACE = 1500  # characters of a trace, its end
ANSWER = 40 << 10  # bytes of one answer, which has to fit into a message of 64 KiB


class Line(Struct, frozen=True):
    """One record; `at` is Unix seconds of the device's clock."""

    at: float
    level: str
    name: str
    text: str

    @property
    def size(self) -> int:
        """About how much it takes, in bytes."""
        return len(self.text.encode()) + len(self.name.encode()) + 64


class RecentLog(logging.Handler):
    """Keeps the newest lines; put it on the root logger. Thread-safe, as every handler is. `clock`: Unix seconds.

    Many lines from one place do not drive the others out: only the first ones of a while are kept.
    """

    def __init__(self, clock: Callable[[], float], now: Callable[[], float] = time.monotonic) -> None:
        from fleet.serving.seldom import Seldom  # its package is heavy for a command that serves nothing

        super().__init__()
        self._clock = clock
        self._seldom = Seldom(now)
        self._lines: deque[Line] = deque()
        self._size = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, and let the oldest go."""
        try:
            if not self._seldom.filter(copy.copy(record)):  # a copy: how many were left out is the log's own to say
                return
            line = Line(record.created, record.levelname, record.name, _text(record))
        except Exception:  # noqa: BLE001  # of whatever is logged: whoever logs goes on, as with every handler
            self.handleError(record)
            return
        self._lines.append(line)
        self._size += line.size
        while len(self._lines) > LINES or self._size > BYTES:
            self._size -= self._lines.popleft().size

    def answer(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The newest lines in their order, as many as were asked for and fit: `{"lines": […], "left_out": N}`.

        Args:
            arguments: `lines`, and `seconds` if only lines of the last time are wanted.

        Raises:
            UsageError: a number that is none, or out of its bounds.
        """
        most = _number(arguments, "lines", 100.0, float(LINES))
        oldest = self._clock() - _number(arguments, "seconds", float("inf"), float("inf"))
        assert self.lock is not None
        with self.lock:
            found = [line for line in self._lines if line.at >= oldest]
        room, first = ANSWER, len(found)
        while first and len(found) - first < most and room >= found[first - 1].size:
            first -= 1
            room -= found[first].size
        return {"lines": [to_builtins(line) for line in found[first:]], "left_out": first}


def _text(record: logging.LogRecord) -> str:
    """The message, and the end of its trace; hidden before it is cut, so that no half of a secret stays."""
    text = _cut(hidden(record.getMessage()[:READ]), LINE)
    if record.exc_info:
        trace = hidden(logging.Formatter().formatException(record.exc_info)[-READ:])
        text += "\n" + (trace if len(trace) <= TRACE else "…" + trace[-TRACE:])
    return text.encode(errors="backslashreplace").decode()  # a file's name may hold what no message takes


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _number(arguments: Mapping[str, Any], name: str, default: float, most: float) -> float:
    value = arguments.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise UsageError(f"{name}: {value!r} is not a number above 0" + (f" and up to {most:g}" if most < 1e9 else ""))
    return float(value)

"""The log of a process on standard error: lines for people, or one JSON document in each line for programs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from fleet.console.hiding import hidden

Format = Literal["text", "json"]
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LONGEST = 16 << 10  # characters of a message, and of the end of a trace
EDGE = LONGEST // 2  # that are left out beside a cut: a piece of a credential there is not known as one
_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}  # what every record has


class JsonLines(logging.Formatter):
    """One line of JSON for each record: time (UTC), level, logger, message, and its trace.

    `fixed` are fields of every line, such as which device it is of; what is logged with `extra={"rollout": …}` becomes
    fields, too, but for names that begin with an underscore, which libraries add for themselves. Credentials are hidden
    in all of it.
    """

    def __init__(self, fixed: Mapping[str, Any]) -> None:
        super().__init__()
        self._fixed = dict(fixed)

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _begin(record.getMessage()),
            **self._fixed,
            "process": record.process,
        }
        said = {key: value for key, value in vars(record).items() if key not in _OWN and not key.startswith("_")}
        line |= {key: _plain(value) for key, value in said.items() if key not in line}
        if record.exc_info:
            line["trace"] = _end(self.formatException(record.exc_info))
        return json.dumps(line)  # ASCII: half a character, as a file's name may hold, is written by its number


class _Handler(logging.StreamHandler[TextIO]):
    """The one that this module has set up."""


def set_up(level: str, form: Format = "text", **fixed: Any) -> None:
    """Let everything from `level` on (such as INFO) go to standard error; once more changes level and form.

    Where the process has another log already, as in somebody's program around it, that one stays as it is.

    Args:
        level: the name of a level, in capitals.
        form: text for people, json for programs.
        fixed: fields of every line of JSON.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(_Handler(sys.stderr))
    for handler in root.handlers:
        if isinstance(handler, _Handler):
            handler.setFormatter(JsonLines(fixed) if form == "json" else logging.Formatter(TEXT))
            root.setLevel(level)


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) or value is None else _begin(str(value))


def _begin(text: str) -> str:
    """The begin of a text, with its credentials hidden before it is cut."""
    if len(text) <= 2 * LONGEST:
        return hidden(text)[:LONGEST]
    return hidden(text[: 2 * LONGEST])[:-EDGE][:LONGEST]


def _end(text: str) -> str:
    """The end of a text, likewise."""
    if len(text) <= 2 * LONGEST:
        return hidden(text)[-LONGEST:]
    return hidden(text[-2 * LONGEST :])[EDGE:][-LONGEST:]

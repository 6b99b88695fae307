"""What a run of the tests counted, kept as JSON in the file that EDGELOOP_COUNTS names.

The test command runs pytest more than once; every part adds to the file. A row is a folder or file below `tests`: how
many tests passed, failed or were skipped (with the reasons), their seconds, and the examples that its properties asked
for. Only a run of the full size without a failure or a skipped test calls itself whole.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from tests.support.size import FULL

EXAMPLES = "examples"
WORDS = ("passed", "failed", "skipped")


def note_examples(item: pytest.Item) -> None:
    """Keep with a test how many examples hypothesis shall try; the report carries it, also from a worker process."""
    function = getattr(item, "obj", None)
    settings = getattr(function, "_hypothesis_internal_use_settings", None)
    if settings is not None:
        item.user_properties.append((EXAMPLES, settings.max_examples))


class Counts:
    """A pytest plugin."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        self._skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row = self._row(report.nodeid)
        row["seconds"] = round(row["seconds"] + report.duration, 3)
        if report.when == "call" or report.outcome != "passed":
            row[report.outcome] += 1
        if report.when == "call":
            row[EXAMPLES] += sum(value for name, value in report.user_properties if name == EXAMPLES)
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            self._skipped.append(f"{report.nodeid}: {report.longrepr[2]}")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        before = (
            json.loads(self._path.read_text()) if self._path.exists() else {"rows": {}, "skipped": [], "status": []}
        )
        rows = before["rows"] | self._rows
        skipped = [*before["skipped"], *self._skipped]
        failed = sum(row["failed"] for row in rows.values())
        document = {
            "size": "full" if FULL else "small",
            "whole": FULL and not failed and not skipped,
            "total": {word: sum(row[word] for row in rows.values()) for word in (*WORDS, EXAMPLES)},
            "machine": {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()},
            "status": [*before["status"], int(exitstatus)],
            "skipped": skipped,
            "rows": dict(sorted(rows.items())),
        }
        self._path.write_text(json.dumps(document, indent=1) + "\n")

    def _row(self, nodeid: str) -> dict[str, Any]:
        name = nodeid.split("::")[0]
        empty: dict[str, Any] = {**dict.fromkeys(WORDS, 0), EXAMPLES: 0, "seconds": 0.0}
        return self._rows.setdefault(name, empty)


def install(config: pytest.Config) -> None:
    """Count in the process that hears of every test, if a file was named."""
    path = os.environ.get("EDGELOOP_COUNTS")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Counts(Path(path)), "counts")

"""The counts of runs of the tests, kept as JSON in the file that EDGELOOP_COUNTS names.

A row is a test file: how many of its tests passed, failed or were skipped (with the reasons), their seconds, the
examples that its properties asked for, and of which commit, date and size that is. A run replaces the rows of the
files that it ran and leaves the others, so a run of hours can be made in pieces, and one that is ended early keeps the
files that it has done. `scripts/run-tests` starts pytest more than once; what has the same EDGELOOP_RUN (a date) is one
run, whose parts add up.

The document calls itself whole when every test file has a row of the full size in which every test passed.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.size import FULL

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, TESTS = "examples", "tests"
WORDS = ("passed", "failed", "skipped")

Row = dict[str, Any]
Rows = dict[str, Row]


def note(items: list[pytest.Item]) -> None:
    """Keep with each test how many its file has and how many examples it shall try.

    The report carries both, also from a worker process. Call it before any test is deselected.
    """
    of: dict[str, int] = {}
    for item in items:
        of[_file(item.nodeid)] = of.get(_file(item.nodeid), 0) + 1
    for item in items:
        item.user_properties.append((TESTS, of[_file(item.nodeid)]))
        function = getattr(item, "obj", None)
        settings = getattr(function, "_hypothesis_internal_use_settings", None)
        if settings is not None:
            item.user_properties.append((EXAMPLES, settings.max_examples))


def add(before: Rows, new: Rows) -> Rows:
    """The rows of before and those of a run: a row of the same run is added to, another is replaced."""
    rows = dict(before)
    for name, row in new.items():
        old = before.get(name)
        if old is not None and old["date"] == row["date"]:
            row = row | {word: old[word] + row[word] for word in (*WORDS, EXAMPLES)}
            row["seconds"] = round(old["seconds"] + row["seconds"], 3)
            row["reasons"] = [*old["reasons"], *row["reasons"]]
        rows[name] = row
    return rows


def document(rows: Rows, files: Iterable[str]) -> dict[str, Any]:
    """The rows of `files` (all test files there are), and what is missing to call them whole."""
    files = sorted(files)
    kept = {name: rows[name] for name in files if name in rows}
    lacks = {
        "missing": [name for name in files if name not in kept],
        "small": [name for name, row in kept.items() if row["size"] != "full"],
        "unfinished": [name for name, row in kept.items() if sum(row[word] for word in WORDS) < row[TESTS]],
        "failed": [name for name, row in kept.items() if row["failed"]],
        "skipped": [name for name, row in kept.items() if row["skipped"]],
    }
    total = {word: sum(row[word] for row in kept.values()) for word in (*WORDS, EXAMPLES)}
    commits = sorted({row["commit"] for row in kept.values()})
    return {"whole": not any(lacks.values()), **lacks, "commits": commits, "total": total, "rows": kept}


def text(made: dict[str, Any]) -> str:
    """The document as JSON with one line for each row."""
    head = json.dumps({**made, "rows": {}}, indent=1).removesuffix("{}\n}")
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in made["rows"].items())
    return f"{head}{{\n{rows}\n }}\n}}\n"


class Counts:
    """A pytest plugin that adds what it hears of to the file `path`."""

    def __init__(self, path: Path, run: dict[str, str]) -> None:
        self._path = path
        self._run = run
        self.rows: Rows = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row = self._row(report.nodeid)
        properties = dict(report.user_properties)
        row[TESTS] = properties[TESTS]
        row["seconds"] = round(row["seconds"] + report.duration, 3)
        # A test whose fixture fails is one, and so is one that fails and whose teardown fails too.
        if report.when == "call" or report.outcome == "skipped" or (report.when == "setup" and report.failed):
            row[report.outcome] += 1
        elif report.when == "teardown" and report.failed:
            row["failed"] += 1
        if report.when == "call":
            row[EXAMPLES] += properties.get(EXAMPLES, 0)
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            row["reasons"].append(f"{report.nodeid.partition('::')[2]}: {report.longrepr[2]}")
        if report.when == "teardown" and sum(row[word] for word in WORDS) >= row[TESTS]:
            name = _file(report.nodeid)
            self._keep({name: self.rows.pop(name)})

    def pytest_sessionfinish(self) -> None:
        self._keep(self.rows)

    def _keep(self, rows: Rows) -> None:
        files = [str(path.relative_to(ROOT)) for path in ROOT.glob("tests/**/test_*.py")]
        with self._path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another part of the run may end just now
            file.seek(0)
            said = file.read()
            before = json.loads(said)["rows"] if said else {}
            file.truncate(0)
            file.write(text(document(add(before, rows), files)))

    def _row(self, nodeid: str) -> Row:
        empty: Row = {**self._run, **dict.fromkeys((TESTS, *WORDS, EXAMPLES), 0), "seconds": 0.0, "reasons": []}
        return self.rows.setdefault(_file(nodeid), empty)


def install(config: pytest.Config) -> None:
    """Count in the process that hears of every test, if a file was named.

    Raises:
        pytest.UsageError: single tests were asked for: a row is a whole file.
    """
    path = os.environ.get("EDGELOOP_COUNTS")
    if not path or hasattr(config, "workerinput"):
        return
    if any("::" in argument for argument in config.args):
        raise pytest.UsageError("EDGELOOP_COUNTS keeps counts of whole files: name files or folders, not single tests")
    config.pluginmanager.register(Counts(Path(path), _run()), "counts")


def _run() -> dict[str, str]:
    """The fields that every row of this run has."""
    date = os.environ.get("EDGELOOP_RUN") or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    return {"commit": _commit(), "date": date, "size": "full" if FULL else "small", "machine": machine}


def _commit() -> str:
    """The commit that runs, with a plus when files other than results differ from it; "unknown" without git."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        others = [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results"]
        changed = subprocess.run(others, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.stdout else "")


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]

"""The table of a run: counts per row, with seeds, printed and (when asked) written to a file.

Only a whole run of the full size, without a failure, takes the file's name; any other is written beside it.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.support.faults.judge import Verdict
from tests.support.size import FULL as FULL

ROWS_OF_ALL = (
    "kill",
    "EIO",
    "ENOSPC",
    "full disk",
    "read-only disk",
    "power loss",
    "renewal",
    "clock",
    "hostile model",
    "network",
    "packets",
    "cold start",
    "attack",
    "attack, power",
)
WORDS = ("bricked", "torn", "stuck", "unsaid", "accepted", "unclean", "unsynced")


class Row(Struct, frozen=True, kw_only=True):
    """`struck` of `cases` faults really happened; the counts of `WORDS` are of cases that went wrong."""

    row: str
    part: str
    cases: int
    struck: int
    wrong: dict[str, int]
    seeds: list[int]
    to_serving_ms: dict[str, float]
    notes: dict[str, Any]


ROWS: list[Row] = []


def keep(
    row: str, part: str, verdicts: list[Verdict], *, seed: int | Iterable[int] = 0, each: int = 1, **notes: Any
) -> list[str]:
    """Count a row's part; returns the faults found, for the test to fail with. A verdict is over `each` cases."""
    assert row in ROWS_OF_ALL, f"{row} is not in ROWS_OF_ALL: nobody would miss it"
    seeds = [seed] if isinstance(seed, int) else sorted(set(seed))
    wrong = {word: sum(any(f.startswith(word) for f in v.faults) for v in verdicts) for word in WORDS}
    times = sorted(v.to_serving_s * 1e3 for v in verdicts if v.to_serving_s)
    spread = {}
    if times:
        p99 = times[min(len(times) - 1, int(0.99 * len(times)))]
        spread = {"median": round(statistics.median(times), 1), "p99": round(p99, 1), "max": round(times[-1], 1)}
    ROWS.append(
        Row(
            row=row,
            part=part,
            cases=each * len(verdicts),
            struck=each * sum(v.struck for v in verdicts),
            wrong=wrong,
            seeds=seeds,
            to_serving_ms=spread,
            notes=notes,
        )
    )
    return [f"{v.name} [found {v.found}]: {fault}" for v in verdicts for fault in v.faults]


def table() -> list[str]:
    """The rows as text."""
    lines = [
        f"{'fault':<15}{'part':<30}{'cases':>6}{'struck':>7}{'bricked':>8}{'torn':>5}{'other':>6}{'seeds':>7}"
        "  to serving, ms (median/p99/max)"
    ]
    for row in ROWS:
        bricked, torn = row.wrong["bricked"], row.wrong["torn"]
        other = sum(row.wrong.values()) - bricked - torn
        times = "/".join(f"{value:g}" for value in row.to_serving_ms.values())
        lines.append(
            f"{row.row:<15}{row.part:<30}{row.cases:>6}{row.struck:>7}{bricked:>8}{torn:>5}{other:>6}{_range(row.seeds):>7}"
            f"  {times:<16}{_shares(row.notes)}".rstrip()
        )
    return lines


def _range(seeds: list[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"


def _shares(notes: dict[str, Any]) -> str:
    """The notes that are shares, such as bytes sent twice over the file's size."""
    return ", ".join(f"{word} {value:.1%}" for word, value in notes.items() if isinstance(value, float))


def write(path: Path, *, status: int, skipped: list[str], deselected: int) -> Path:
    """Write the rows as JSON, and what is missing; gives the file, which is `path` only for a whole run.

    `status` is pytest's, `skipped` says which tests were and why, `deselected` how many nobody asked for.
    """
    kept = {row.row for row in ROWS}
    missing = [row for row in ROWS_OF_ALL if row not in kept]
    whole = FULL and status == 0 and not (missing or skipped or deselected)
    machine = {"machine": platform.machine(), "system": platform.release(), "cpus": os.cpu_count()}
    rows = [{field: getattr(row, field) for field in Row.__struct_fields__} for row in ROWS]
    document = {
        "size": "full" if FULL else "ci",
        "whole": whole,
        "status": status,
        "missing": missing,
        "skipped": skipped,
        "deselected": deselected,
        "python": platform.python_version(),
        **machine,
        "rows": rows,
    }
    to = path if whole else path.with_suffix(".incomplete.json")
    to.write_text(json.dumps(document, indent=1) + "\n")
    return to

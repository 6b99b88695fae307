"""The bench that fault tests share, and the table after the last one.

EDGELOOP_SIZE=full chooses the full size, EDGELOOP_FAULTS_RESULTS=FILE writes the table as JSON; a run that was
not whole is written to FILE with `.incomplete` in its name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.faults import results
from tests.support.faults.bench import Bench
from tests.support.faults.static_hub import StaticHub, serving
from tests.support.faults.world import World
from tests.support.require import require

SIZES = {"small": 0, "256 KiB": 256 << 10, "4 MiB": 4 << 20}


def pytest_terminal_summary(terminalreporter, exitstatus: int) -> None:
    if not results.ROWS:
        return
    terminalreporter.section("fault tests")
    for line in results.table():
        terminalreporter.write_line(line)
    if os.environ.get("EDGELOOP_FAULTS_RESULTS"):
        stats = terminalreporter.stats
        skipped = [f"{report.nodeid}: {report.longrepr[2]}" for report in stats.get("skipped", [])]
        to = results.write(
            Path(os.environ["EDGELOOP_FAULTS_RESULTS"]),
            status=int(exitstatus),
            skipped=skipped,
            deselected=sum(item.get_closest_marker("fault") is not None for item in stats.get("deselected", [])),
        )
        terminalreporter.write_line(f"written to {to}")


@pytest.fixture(scope="session")
def full() -> bool:
    """Tell whether the full size was asked for."""
    return results.FULL


@pytest.fixture(scope="session")
def strace() -> Path:
    return require("strace", "strace")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("bench"), workers=min(4, os.cpu_count() or 1))
    yield made
    made.close()


@pytest.fixture(scope="session")
def static() -> Iterator[StaticHub]:
    with serving(StaticHub()) as hub:
        yield hub


@pytest.fixture(scope="session")
def world(bench: Bench, static: StaticHub, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    """The world of a size, made once."""
    made: dict[str, World] = {}

    def of(size: str) -> World:
        if size not in made:
            folder = tmp_path_factory.mktemp("world")
            with bench.worker() as (run, _):
                made[size] = World(folder, static, run, padding=SIZES[size], start=time.time() - 60)
        return made[size]

    return of

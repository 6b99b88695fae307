"""The real agent on a disk that is full or read-only: it starts, serves and says so, and goes on once there is room.

The disk is a small tmpfs (`tests/support/faults/disk.py`). *States*: the agent starts on such a disk in each state
that it may have been left in. *Updates*: it has some bytes left, which the update uses up. Where a container forbids
mount namespaces these rows are skipped, as that of packets is: it says what is refused and what to do.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from edge_agent.update.disk.state import read_state
from tests.support.faults import results
from tests.support.faults.disk import START_S, Process, SmallDisk, answer, patiently, running
from tests.support.faults.judge import Verdict, recover, wrong
from tests.support.faults.netns import NotPermittedError
from tests.support.faults.standing import standing
from tests.support.faults.static_hub import StaticHub
from tests.support.faults.world import MODEL, Scenario, copy
from tests.support.faults.zygote import Probe
from tests.support.require import require

pytestmark = pytest.mark.fault

SETTINGS = (
    "poll_s = 3.0\npoll_jitter = 0.0\nretry_first_s = 0.5\nretry_max_s = 1.0\nhealth_tick_s = 0.1\n"
    "disk_reserve_bytes = 0\n"
)
READ_ONLY = -1  # instead of bytes that are free
SAYS_S, HEALS_S = 20.0, 30.0  # a look starts processes, and the machine is busy
MOST_LOOKS = 2  # the one that was under way when the disk healed, and one more
PAGE = 4096  # bytes that the tmpfs gives at a time
NEEDS = {"install": 60, "swap": 22, "halt": 8, "rotation": 28}  # pages, so that with fewer the disk is full midway
STEPS = 12


class Cell(Struct, frozen=True, kw_only=True):
    """A scenario on a disk with `free` bytes left, or `READ_ONLY`."""

    scenario: Scenario
    free: int

    @property
    def name(self) -> str:
        disk = "read-only" if self.free == READ_ONLY else f"{self.free} bytes free"
        return f"{self.scenario.name} with {disk}"

    @property
    def reason(self) -> str:
        return "disk-error" if self.free == READ_ONLY else "disk-full"


class Watch:
    """Asks the process again and again; every answer must be right, and what once served must go on."""

    def __init__(self, process: Process, scenario: Scenario) -> None:
        self._process, self._scenario = process, scenario
        self._served = bool(scenario.old)
        self.faults: dict[str, None] = {}  # in order, each once

    def until(self, seconds: float) -> Iterator[dict[str, Any]]:
        """The answers of `/status`, one after the other, until the process ends or that much time has passed."""
        for _ in patiently(seconds):
            if ended := self._process.ended():
                self.faults[f"bricked: {ended}"] = None
                return
            if (status := self._process.status()) is not None:
                self._ask()
                yield status

    def _ask(self) -> None:
        probe = answer(self._process.url) or Probe()
        self.faults |= {f"torn: {why}": None for why in wrong(probe, self._scenario)}
        if self._served and not probe.release:
            self.faults["bricked: what served does not serve"] = None
        self._served = self._served or bool(probe.release)


def model(status: dict[str, Any]) -> dict[str, Any]:
    return status["models"].get(MODEL) or {"state": "idle", "active": None, "reason": "", "hint": ""}


def told(status: dict[str, Any]) -> set[str]:
    """The reasons that come with a hint."""
    found = [(status["problem"], status["hint"]), (model(status)["reason"], model(status)["hint"])]
    return {reason for reason, hint in found if hint}


def there(status: dict[str, Any], scenario: Scenario) -> bool:
    """Tell whether the device is where it should be, and nothing troubles it any more."""
    ends = "rolled_back" if scenario.name == "rolled_back" else "committed"
    now = model(status)
    return (now["state"], now["active"], status["problem"]) == (ends, scenario.wanted, "")


def on_disk(directory: Path) -> tuple[str, int]:
    """The state and the active release that a restart would find."""
    found = read_state(directory).models[MODEL]
    return found.state, found.active.release if found.active else 0


class Looks:
    """Counts the looks at each stage's address, by what each begins with."""

    def __init__(self, static: StaticHub) -> None:
        self._counts: dict[str, int] = {}
        static.heard = self._heard

    def of(self, name: str) -> int:
        return self._counts.get(name, 0)

    def _heard(self, path: str) -> None:
        if path.endswith("/device/me"):
            name = path.split("/")[1]
            self._counts[name] = self._counts.get(name, 0) + 1


def endure(run, folder: Path, cell: Cell, static: StaticHub, looks: Looks, number: int) -> Verdict:
    """A life that begins on the bad disk and ends on a good one, and the one after it."""
    scenario, mine = cell.scenario, f"disk-{number}"  # an address of its own, by which its looks are known
    static.stages[mine] = static.stages[scenario.stage]
    with SmallDisk(folder / "disk") as disk:
        copy(scenario.image, disk.root / "device", f"{static.url}/{mine}")
        (disk.root / "device" / "agent.toml").write_text(SETTINGS)
        if scenario.old:  # it ran before, so this is there, too
            (disk.root / "device" / "run.lock").touch()
        disk.remount("ro") if cell.free == READ_ONLY else disk.fill(cell.free)
        with running(disk, disk.at / "device", folder / "agent.log") as process:
            watch = Watch(process, scenario)
            struck = says(watch, cell)
            begun = looks.of(mine)
            disk.heal()
            needed = arrives(watch, cell, disk.root / "device", lambda: looks.of(mine) - begun)
            faults = [f"{fault}; {process.said()}" for fault in watch.faults]
        if not faults and needed > MOST_LOOKS:
            faults.append(f"stuck: {needed} looks were needed")
        shutil.rmtree(folder / "device", ignore_errors=True)
        shutil.copytree(disk.root / "device", folder / "device", symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    after = recover(run, folder, scenario, static.url, cell.name)
    return replace(after, faults=(*faults, *after.faults), struck=struck)


def says(watch: Watch, cell: Cell) -> bool:
    """Wait until the device names the disk's reason; false when it got where it should without."""
    status: dict[str, Any] | None = None
    for status in watch.until(START_S + SAYS_S):
        if cell.reason in told(status):
            return True
        if there(status, cell.scenario) and cell.free > 0:
            return False
    if not watch.faults:
        watch.faults[f"unsaid: nothing says {cell.reason}, but {status}"] = None
    return True


def arrives(watch: Watch, cell: Cell, directory: Path, looked: Callable[[], int]) -> int:
    """Wait until the device is where it should be, in this life and for the next one; gives the looks that it took.

    What ends a probation is requests, so a look that comes meanwhile does not count.
    """
    status: dict[str, Any] | None = None
    needed = 0
    for status in watch.until(HEALS_S):
        now = model(status)
        if not needed and (now["active"], status["problem"]) == (cell.scenario.wanted, ""):
            needed = looked()
        if there(status, cell.scenario) and on_disk(directory) == (now["state"], now["active"]):
            return needed
    if not any(fault.startswith("bricked") for fault in watch.faults):
        watch.faults[f"stuck: {status}, and {on_disk(directory)} on the disk"] = None
    return needed


def states(found: list[Scenario]) -> list[Cell]:
    """Every state on a read-only disk and on one that is full; or every second, in turn."""
    every = [Cell(scenario=scenario, free=free) for scenario in found for free in (0, READ_ONLY)]
    return every if results.FULL else [every[2 * index + index % 2] for index in range(len(found))]


def updates(scenarios: dict[str, Scenario]) -> list[Cell]:
    """Each update with ever more pages left, up to what it needs; or with half of that."""
    found = []
    for name, needs in NEEDS.items():
        pages = range(0, needs, -(-needs // STEPS)) if results.FULL else (needs // 2,)
        found += [Cell(scenario=scenarios[name], free=PAGE * free) for free in pages]
    return found


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", ["states", "updates"])
def test_a_disk_that_takes_nothing_costs_nothing_but_time(part, bench, static, world, tmp_path):
    require("nsenter", "util-linux")
    made = world("small")
    cells = states(list(standing(made, tmp_path))) if part == "states" else updates(made.scenarios)
    looks, numbers = Looks(static), itertools.count()
    try:
        verdicts = bench.map(lambda run, folder, cell: endure(run, folder, cell, static, looks, next(numbers)), cells)
    except NotPermittedError as error:
        pytest.skip(str(error))
    finally:
        static.heard = lambda path: None
    faults = []
    for row, kind in (("full disk", 1), ("read-only disk", 0)):
        chosen = [v for v, cell in zip(verdicts, cells, strict=True) if (cell.free != READ_ONLY) == kind]
        if chosen:
            faults += results.keep(row, part, chosen)
    assert not faults, "\n".join(faults)
    assert sum(v.struck for v in verdicts) >= 0.75 * len(verdicts)

"""A real agent process that a real hub updates again and again, under requests or watched for its memory."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from edge_agent.identity.enroll import enroll
from edge_agent.update.disk.state import read_state
from fleet.protocol.channel import ModelEntry, Probation
from tests.support.agent_process import ROOT, running
from tests.support.device import claim, follow, listening, publish
from tests.support.hub import HubFixture, make_hub

RELEASES = 3  # in turn, so that the next one is neither active nor kept as the previous one
AROUND_S = 1.0  # before and after the first answer of a new release: its look, its self-test, its load


class Row(NamedTuple):
    """One request: when it was sent (monotonic), how long it took, whether it was answered, by which release."""

    at: float
    took_s: float
    ok: bool
    release: str


class Fleet(NamedTuple):
    """A hub, its device's folder, and the process that serves."""

    hub: HubFixture
    device: Path
    process: subprocess.Popen[bytes]
    url: str

    def update(self, number: int, *, seconds: float = 1e9) -> None:
        """Make `number` the default and wait until the device has committed it."""
        policy = Probation(seconds=seconds, requests=50)

        def entry(made: ModelEntry) -> ModelEntry:
            return replace(made, probation=policy)

        follow(self.hub, number, entry)
        deadline = time.monotonic() + 120
        while not _committed(self.device, number):
            assert self.process.poll() is None, (self.device / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (self.device / "log").read_text()[-2000:]
            time.sleep(0.05)

    def resident(self) -> int:
        """The serving process's own memory now, bytes (RSS)."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * 4096

    def maps(self) -> str:
        """The files that are mapped into the serving process."""
        return Path(f"/proc/{self.process.pid}/maps").read_text()


@contextlib.contextmanager
def agent(folder: Path, *, poll_s: float) -> Iterator[Fleet]:
    """An agent that serves release 1 of RELEASES and looks at its hub every `poll_s`."""
    hub = make_hub(folder, start=time.time())
    for seed in range(1, RELEASES + 1):
        publish(hub, folder, seed=seed)
    with listening(hub) as url:
        device = folder / "device"
        enroll(url, claim(hub), device, name="dev-1", agent="test", hardware={})
        (device / "agent.toml").write_text(f"poll_s = {poll_s}\npoll_jitter = 0.0\ndisk_reserve_bytes = 0\n")
        with running(device, "--port", "0") as (process, address):
            fleet = Fleet(hub, device, process, address)
            fleet.update(1, seconds=0.1)
            yield fleet


def turn(count: int) -> Iterator[int]:
    """The releases of `count` updates after release 1."""
    return (1 + update % RELEASES for update in range(1, count + 1))


def stream_through(fleet: Fleet, swaps: int, out: Path, *, rate: float, rest_s: float) -> list[Row]:
    """Ask `rate` times per second through `swaps` updates, each followed by `rest_s` of quiet."""
    command = [sys.executable, "-m", "tests.support.stream", fleet.url, "tiny", str(rate), str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as stream:
        try:
            time.sleep(rest_s)
            for number in turn(swaps):
                fleet.update(number)
                time.sleep(rest_s)
            assert stream.stdin is not None
            stream.stdin.close()
            assert stream.wait(60) == 0
        finally:
            stream.kill()
    return [Row(*row) for row in json.loads(out.read_text())]


def swapped_at(rows: list[Row]) -> list[float]:
    """The moments of the first answers of each new release, in order."""
    moments, last = [], ""
    for row in sorted(rows):
        if row.ok and row.release != last:
            if last:
                moments.append(row.at)
            last = row.release
    return moments


def p99(rows: list[Row]) -> float:
    """Seconds; nearest rank."""
    took = sorted(row.took_s for row in rows)
    return took[min(len(took) - 1, int(np.ceil(0.99 * len(took))) - 1)]


def ratios(rows: list[Row]) -> list[float]:
    """Per swap: the p99 of the requests around it over the p99 of those after it and before the next one."""
    moments, found = swapped_at(rows), []
    end = max(row.at for row in rows)
    for moment, following in zip(moments, [*moments[1:], end + AROUND_S], strict=True):
        around = [row for row in rows if abs(row.at - moment) <= AROUND_S]
        quiet = [row for row in rows if moment + AROUND_S < row.at < following - AROUND_S]
        found.append(p99(around) / p99(quiet))
    return found


def memory_over(fleet: Fleet, updates: int) -> list[int]:
    """The serving process's memory after each of `updates` updates, bytes."""
    found = []
    for number in turn(updates):
        fleet.update(number, seconds=0.1)
        found.append(fleet.resident())
    return found


def slope(memory: list[int]) -> float:
    """Bytes per update: the median of the slopes between all pairs (Theil 1950, Sen 1968), which jumps do not sway."""
    pairs = [(j - i, memory[j] - memory[i]) for i in range(len(memory)) for j in range(i + 1, len(memory))]
    return float(median(rise / run for run, rise in pairs))


def _committed(device: Path, number: int) -> bool:
    model = read_state(device).models.get("tiny")
    return model is not None and model.state == "committed" and (model.active and model.active.release) == number

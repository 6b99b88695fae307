"""The processes of a simulation, what they say meanwhile, and the report."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from fleet.protocol.codec import decode_json, encode_json
from fleet.protocol.errors import ProtocolError
from fleet.simulator.errors import EndedError
from fleet.simulator.work import Member, ProcessProgress, Work

LINE_LIMIT = 64 << 20
END_S = 30.0  # for a process to say goodbye for its devices
KEPT_DELAYS = 100_000  # the latest, for the quantiles


class SimulationPlan(Struct, frozen=True, kw_only=True):
    """The plan of a simulation: `members` on `channel` of `hub`, for `seconds` and `drain_s` as `Work` has them."""

    hub: str
    channel: str
    directory: str
    seed: int
    seconds: float
    drain_s: float
    processes: int
    members: tuple[Member, ...]


class Report(Struct, frozen=True, kw_only=True):
    """The results of a simulation. Counts are sums over all devices; `delay_s` are quantiles of the seconds from a
    record to its receipt (p50, p95, p99, max); `releases` counts devices by the release that serves; `troubles` counts
    faults, by their words."""

    devices: int
    enrolled: int
    online: int
    seconds: float
    records: int
    sent: int
    receipted: int
    waiting: int
    lost: int
    hostile: int
    looks: int
    commands: int
    refused: int
    delay_s: dict[str, float]
    releases: dict[str, int]
    troubles: dict[str, int]
    memory_bytes: int

    @property
    def receipted_per_s(self) -> float:
        """Records that the hub took and acknowledged, per second."""
        return self.receipted / self.seconds if self.seconds else 0.0


class Simulation:
    """Starts the processes and sums up what they say. `changed` is called with each new report."""

    def __init__(self, plan: SimulationPlan, changed: Callable[[Report], None]) -> None:
        self._plan, self._changed = plan, changed
        self._lock = threading.Lock()
        self._latest: dict[int, ProcessProgress] = {}
        self._delays: list[float] = []
        self._slowest = 0.0
        self._began = time.time()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopped = False

    def run(self) -> Report:
        """Until the plan's time is over, or `stop` is called.

        Raises:
            EndedError: a process ended in an error; its words are on standard error.
        """
        readers = []
        for number in range(self._plan.processes):
            if self._stopped:
                break
            process = self._start(number)
            reader = threading.Thread(target=self._read, args=(number, process), daemon=True)
            reader.start()
            readers.append(reader)
        for reader in readers:
            reader.join()
        codes = [process.wait(END_S) for process in self._processes]
        report = self.report()
        ended = {number for number, progress in self._latest.items() if progress.done}
        unfinished = [number for number, code in enumerate(codes) if code or number not in ended]
        if unfinished:
            raise EndedError(
                f"{len(unfinished)} of {len(codes)} processes of the simulation ended early",
                subject="simulation",
                hint="what they said is on standard error above",
            )
        return report

    def stop(self) -> None:
        """Let all devices say goodbye; `run` returns then."""
        self._stopped = True
        for process in self._processes:
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()

    def report(self) -> Report:
        """The sums so far."""
        with self._lock:
            latest = list(self._latest.values())
            delays = sorted(self._delays)
            slowest = self._slowest
        releases, troubles = Counter[str](), Counter[str]()
        for progress in latest:
            releases.update(progress.releases)
            troubles.update(progress.troubles)
        sums = {
            name: sum(getattr(progress, name) for progress in latest)
            for name in (
                "enrolled",
                "online",
                "records",
                "sent",
                "receipted",
                "waiting",
                "lost",
                "hostile",
                "looks",
                "commands",
                "refused",
                "memory_bytes",
            )
        }
        quantiles = {f"p{q}": _quantile(delays, q / 100) for q in (50, 95, 99)} | {"max": slowest}
        return Report(
            devices=len(self._plan.members),
            seconds=time.time() - self._began,
            delay_s=quantiles,
            releases=dict(releases),
            troubles=dict(troubles),
            **sums,
        )

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        plan = self._plan
        work = Work(
            number=number,
            hub=plan.hub,
            channel=plan.channel,
            directory=plan.directory,
            seed=plan.seed,
            started_at=self._began,
            seconds=plan.seconds,
            drain_s=plan.drain_s,
            members=plan.members[number :: plan.processes],
        )
        command = [sys.executable, "-m", "fleet.simulator.worker"]
        # A session of its own: Ctrl-C in a terminal is for the command, which lets the devices say goodbye.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._processes.append(process)
        assert process.stdin is not None
        process.stdin.write(encode_json(work) + b"\n")
        process.stdin.flush()
        return process

    def _read(self, number: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                progress = decode_json(line, ProcessProgress, limit=LINE_LIMIT, subject="progress")
            except ProtocolError:
                continue  # a library's print; the counts that follow say what matters
            with self._lock:
                self._latest[number] = progress
                self._delays = (self._delays + progress.delays)[-KEPT_DELAYS:]
                self._slowest = max([self._slowest, *progress.delays])
            self._changed(self.report())


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def prepared(directory: Path, names: Sequence[str]) -> set[str]:
    """The names whose devices are enrolled in `directory` already."""
    return {name for name in names if (directory / name / "identity" / "enrollment.json").exists()}

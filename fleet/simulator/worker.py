"""The process that runs its share of the simulated devices: `python -m fleet.simulator.worker`.

It reads one `Work` as JSON from standard input, writes a `ProcessProgress` per second as a line of JSON to standard
output, and ends when its input does, or after the time that it was given.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edge_agent.errors import AgentError, ConflictError
from edge_agent.identity.enroll import Enrollment, enroll, load_enrollment
from edge_agent.runtimes import capabilities
from fleet.protocol.codec import decode_json, encode_json
from fleet.protocol.errors import ProtocolError
from fleet.protocol.shadow import CAPABILITY as SHADOW
from fleet.simulator import view as views
from fleet.simulator.calls import Calls
from fleet.simulator.device import AGENT
from fleet.simulator.outbox import Counts
from fleet.simulator.profiles import is_off, randomness
from fleet.simulator.simulated import Simulated
from fleet.simulator.work import Member, ProcessProgress, Work

THREADS = 8  # connections and calls that are being made at once
SECOND, SHORTEST_S = 1.0, 0.005  # the shortest: until a device is woken again
TEND_S = 5.0
FRESH_S = 1.0  # a view of the channel that is as young serves all devices that look
MAX_DELAYS = 20_000  # of receipts, kept for their quantiles
INPUT_LIMIT = 256 << 20

log = logging.getLogger(__name__)


class Worker:
    """Everything of one process."""

    def __init__(self, work: Work, say: Callable[[ProcessProgress], None]) -> None:
        self.work, self._say = work, say
        self.counts = Counts()
        self.loop = asyncio.get_running_loop()
        self.threads = ThreadPoolExecutor(THREADS)
        self.random = randomness(f"{work.seed}:worker {work.number}")
        self.calls: Calls
        self._looker: views.Looker
        self._devices: list[Simulated] = []
        self._agenda: list[tuple[float, int, Simulated]] = []
        self._planned: dict[int, float] = {}
        self._view: views.View | None = None
        self._viewed, self._viewing = -FRESH_S, asyncio.Lock()
        self._troubles: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._enrolled = 0

    def now(self) -> float:
        """Seconds since the start of the simulation, the same in all its processes."""
        return time.time() - self.work.started_at

    def spawn(self, coroutine: Any) -> None:
        """Run beside the rest."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.trouble(f"{type(error).__name__}: {error}")
            log.error("a task of the simulation failed", exc_info=error)

    def trouble(self, why: str) -> None:
        """Count what went wrong, by what it was."""
        self._troubles[why[:200] if why in self._troubles or len(self._troubles) < 50 else "other"] += 1

    def schedule(self, simulated: Simulated) -> None:
        """Wake the device when it next has something to do."""
        at = max(simulated.device.wakes_at(), self.now() + SHORTEST_S)
        if at < self._planned.get(id(simulated), float("inf")):
            self._planned[id(simulated)] = at
            heapq.heappush(self._agenda, (at, id(simulated), simulated))

    async def view(self) -> views.View:
        """The channel as it was at most `FRESH_S` ago."""
        async with self._viewing:
            if self._view is None or self.now() - self._viewed >= FRESH_S:
                self._view = await self.loop.run_in_executor(self.threads, self._looker.look, self._view)
                self._viewed = self.now()
            return self._view

    async def run(self, ended: asyncio.Event) -> None:
        """Enrol, connect, and go on until the time is over or `ended` is set."""
        await self._enrol(ended)
        if self._devices and not ended.is_set():
            directories = [simulated.directory for simulated in self._devices]
            can = frozenset(capabilities()) | {SHADOW}
            self.calls = Calls(directories[0], connections=THREADS)
            self._looker = views.Looker(directories, self.work.channel, can)
            for simulated in self._devices:
                simulated.start()
            await self._go_on(ended, self.work.seconds, lambda: False)
            for simulated in self._devices:
                simulated.device.rest()
            await self._go_on(ended, self.work.drain_s, self._settled)
        for simulated in self._devices:
            simulated.stop()
        await asyncio.sleep(0)
        self._tell(done=True)
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def _enrol(self, ended: asyncio.Event) -> None:
        """With `THREADS` at a time; a device that cannot be enrolled is left out, and said."""
        waiting = list(reversed(self.work.members))
        said = 0.0

        async def some() -> None:
            nonlocal said
            while waiting and not ended.is_set():
                member = waiting.pop()
                try:
                    enrollment = await self.loop.run_in_executor(self.threads, _enrolled, self.work, member)
                    self._devices.append(Simulated(self, member, enrollment))
                    self._enrolled += 1
                except (AgentError, ProtocolError, OSError) as error:
                    self.trouble(f"enrol: {error}")
                if time.monotonic() - said >= SECOND:
                    said = time.monotonic()
                    self._tell()

        await asyncio.gather(*(some() for _ in range(THREADS)))

    def _settled(self) -> bool:
        return all(simulated.off or simulated.device.settled for simulated in self._devices)

    async def _go_on(self, ended: asyncio.Event, seconds: float, enough: Callable[[], bool]) -> None:
        begun, told, tended = self.now(), 0.0, 0.0
        while not ended.is_set() and self.now() - begun < seconds and not enough():
            now = self.now()
            while self._agenda and self._agenda[0][0] <= now:
                _, key, simulated = heapq.heappop(self._agenda)
                self._planned.pop(key, None)
                simulated.wake()
            if now - told >= SECOND:
                told = now
                self._switch(now)
                self._tell()
            if now - tended >= TEND_S:
                tended = now
                for simulated in self._devices:
                    simulated.tend()
            due = self._agenda[0][0] - self.now() if self._agenda else SECOND
            await asyncio.sleep(min(max(due, 0.0), 0.05))

    def _switch(self, now: float) -> None:
        for simulated in self._devices:
            simulated.switch(is_off(simulated.device.profile, simulated.device.id, now))

    def _tell(self, *, done: bool = False) -> None:
        delays, self.counts.delays = self.counts.delays[:MAX_DELAYS], []
        releases: Counter[str] = Counter()
        for simulated in self._devices:
            for model in simulated.device.models:
                releases[f"{model}@{simulated.device.active(model) or '–'}"] += 1
        counts = self.counts
        progress = ProcessProgress(
            enrolled=self._enrolled,
            online=sum(s.device.online for s in self._devices),
            waiting=sum(s.device.waiting for s in self._devices),
            records=counts.records,
            sent=counts.sent,
            receipted=counts.receipted,
            hostile=counts.hostile,
            lost=counts.lost,
            commands=counts.commands,
            refused=counts.refused,
            looks=counts.looks,
            releases=dict(releases),
            delays=delays,
            troubles=dict(self._troubles),
            memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            done=done,
        )
        self._say(progress)


def _enrolled(work: Work, member: Member) -> Enrollment:
    directory = Path(work.directory) / member.name
    if (directory / "identity" / "enrollment.json").exists():
        found = load_enrollment(directory)
        if (found.hub, found.channel) != (work.hub.rstrip("/"), work.channel):
            raise ConflictError(
                f"the devices in {work.directory} are enrolled with {found.hub} for channel {found.channel!r}",
                subject=work.directory,
                hint="give another --dir, or the --hub and --channel of before",
            )
        return found
    return enroll(work.hub, member.token, directory, name=member.name, agent=AGENT, hardware={"machine": "simulated"})


def _say(progress: ProcessProgress) -> None:
    sys.stdout.buffer.write(encode_json(progress) + b"\n")
    sys.stdout.buffer.flush()


async def _main(work: Work) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: ended.set() if not os.read(0, 1) else None)
    try:
        await Worker(work, _say).run(ended)
    finally:
        loop.remove_reader(sys.stdin)


def main() -> None:
    """The process."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    work = decode_json(sys.stdin.buffer.readline(), Work, limit=INPUT_LIMIT, subject="work")
    asyncio.run(_main(work))


if __name__ == "__main__":
    main()

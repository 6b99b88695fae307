"""The two applications of `benchmarks/soak.py`, each a process that works until its stdin ends and then writes JSON.

`python -m benchmarks.soak_load http URL MODEL RATE OUT` sends RATE requests a second, each at its moment whether or not
those before it were answered. RATE 0: it finds out how many the agent answers at `CLIENTS` connections, and sends half.
`python -m benchmarks.soak_load in-process DIR MODEL RATE OUT` asks a model of its own.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edge_agent.errors import AgentError
from edge_agent.local import open_model
from tests.support.stream import Row, Stream

CLIENTS = 32  # connections at most
TRIES = 4  # seconds in which the agent is asked as fast as it answers; the best one counts
STEP = 1.05  # between two bins of the histogram of times
SHOWN = 20  # failures that are written down


class Tally:
    """Counts requests, so that an hour of them needs no memory."""

    def __init__(self) -> None:
        self.requests = self.failed = 0
        self.releases: dict[str, int] = {}
        self.failures: list[str] = []
        self.slowest_s = 0.0
        self._bins: dict[int, int] = {}

    def append(self, row: Row) -> None:
        """Count one request."""
        _, took_s, answered, said = row
        self.requests += 1
        self.slowest_s = max(self.slowest_s, took_s)
        place = math.ceil(math.log(max(took_s, 1e-6) * 1e6, STEP))
        self._bins[place] = self._bins.get(place, 0) + 1
        if answered:
            self.releases[said] = self.releases.get(said, 0) + 1
            return
        self.failed += 1
        if len(self.failures) < SHOWN:
            self.failures.append(said[:200])

    def quantile_ms(self, share: float) -> float:
        """The upper end of the bin that holds it."""
        left = math.ceil(share * self.requests)
        for place in sorted(self._bins):
            left -= self._bins[place]
            if left <= 0:
                return float(round(STEP**place / 1e3, 3))
        return 0.0

    def document(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "requests": self.requests,
            "failed": self.failed,
            "failures": self.failures,
            "releases": self.releases,
            "p50_ms": self.quantile_ms(0.5),
            "p99_ms": self.quantile_ms(0.99),
            "slowest_ms": round(self.slowest_s * 1e3, 1),
        }


class Load(Stream):
    """A stream over a bounded number of connections; a request waits for one, and its time counts from its moment."""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(url, model, rate=1.0)
        self.rows = Tally()  # type: ignore[assignment]
        self._places = asyncio.Semaphore(CLIENTS)

    async def capacity(self, tries: int) -> float:
        """Requests that are answered in a second when each connection asks again at once: in the best of `tries`."""
        best = 0
        for _ in range(tries):
            before, until = self.rows.requests, time.monotonic() + 1.0  # type: ignore[attr-defined]
            await asyncio.gather(*(self._again(until) for _ in range(CLIENTS)))
            best = max(best, self.rows.requests - before)  # type: ignore[attr-defined]
        return float(best)

    async def _again(self, until: float) -> None:
        while time.monotonic() < until:
            await self._one(time.monotonic())

    async def at(self, rate: float, stop: asyncio.Event) -> None:
        """Send so many a second until `stop`."""
        self._rate = rate
        await self.run(stop)

    async def _one(self, moment: float) -> None:
        async with self._places:
            await super()._one(moment)


async def over_http(url: str, model: str, rate: float, out: Path) -> None:
    """Load until stdin ends."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(sys.stdin, stop.set)
    load = Load(url, model)
    capacity = 0.0 if rate else await load.capacity(TRIES)
    rate = rate or max(1.0, capacity / 2)
    await load._one(time.monotonic())
    out.with_suffix(".ready").touch()
    await load.at(rate, stop)
    loop.remove_reader(sys.stdin)
    found: Tally = load.rows  # type: ignore[assignment]
    out.write_text(
        json.dumps({"capacity_per_s": round(capacity), "rate_per_s": round(capacity / 2), **found.document()})
    )


def in_process(directory: Path, model: str, rate: float, out: Path) -> None:
    """Ask until stdin ends."""
    tally, x = Tally(), np.full((1, 4), 0.5, np.float32)
    with open_model(directory, model) as loaded:
        start, sent = time.monotonic(), 0
        while not select.select([sys.stdin], [], [], max(0.0, start + sent / rate - time.monotonic()))[0]:
            began, sent = time.monotonic(), sent + 1
            try:
                said, answered = str(loaded.infer({"input": x}).release), True
            except (AgentError, ValueError, RuntimeError) as error:
                said, answered = repr(error), False
            tally.append((began, time.monotonic() - began, answered, said))
            out.with_suffix(".ready").touch()
        lost = loaded._outbox.lost
    out.write_text(json.dumps({"rate_per_s": rate, "pid": os.getpid(), "records_lost": lost, **tally.document()}))


def main(kind: str, where: str, model: str, rate: str, out: str) -> None:
    """One of the two."""
    if kind == "http":
        asyncio.run(over_http(where, model, float(rate), Path(out)))
    else:
        in_process(Path(where), model, float(rate), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The cost of a hub's regular work as its fleet grows: a rollout's step, a new rollout, lists, the page, `/metrics`.

For each size a fleet is written straight into a database of each kind: devices with labels, their reports and windows,
and a rollout in its second stage with evidence of each device. Each kind of work is then timed (the median of several)
and its SQL statements are counted. A `step` comes after a second's share of reports (every device reports once a
minute); `first_step` reads the whole fleet, as a hub does that starts or takes over. `claims` takes in a batch of
`BATCH` windows of as many devices, each of which says what came of `EACH` audited inputs, half of them of the `SHARED`
that every device meets, `claims_known` one of inputs that others have met already; `step_after_claims` is the step
after a batch. `ingest_alone_ms` and
`ingest_most_ms` are what writing one report takes alone, and at most while a rollout is created. The median is of the
wall clock; `cpu_ms` is this process's part, which a busy machine does not distort.

    python benchmarks/fleet_size.py [--sizes 1000,5000] [--databases sqlite] [--rounds 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

from sqlalchemy import update
from sqlmodel import col

from benchmarks.machine import machine
from cloud_hub.ingest.inbox import Message
from cloud_hub.ingest.ingestor import Ingestor
from cloud_hub.rollouts import create_rollout
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.rollouts.orders import apply_order
from cloud_hub.store.tables import Device, PairEvidence
from tests.support import large_fleet
from tests.support.databases import migrated_postgres
from tests.support.hub import HubFixture, make_hub
from tests.support.postgres import cluster
from tests.support.rollouts import claiming

SIZES = (1000, 5000, 10_000, 50_000)
ROUNDS = 5
BATCH, EACH, SHARED = 500, 20, 2000
LISTED = 10_000  # devices that are listed one and all
GUARD = {"margin": 0.02, "min_pairs": 10**9}  # the step judges everything, and goes on
PAGES = {
    "device_list": "/api/v1/devices?limit=200",
    "device_list_label": "/api/v1/devices?limit=200&label=site%3Ds7",
    "dashboard": "/",
    "dashboard_devices": "/devices",
    "dashboard_plots": "/drift/plots.json",
    "metrics": "/metrics",
    "rollout_list": "/api/v1/rollouts",
}


def timed(
    hub: HubFixture, work: Callable[[], object], before: Callable[[], object] = lambda: None, *, rounds: int
) -> dict[str, Any]:
    """Median and largest time in ms of some rounds, this process's part of it, and the statements of the last."""
    took, busy = list[float](), list[float]()
    for _ in range(rounds):
        before()
        with large_fleet.statements(hub.hub.engine) as sent:
            began, worked = time.perf_counter(), time.process_time()
            work()
            took.append(1000 * (time.perf_counter() - began))
            busy.append(1000 * (time.process_time() - worked))
    figures = {"ms": median(took), "most_ms": max(took), "cpu_ms": median(busy)}
    return {**{name: round(value, 1) for name, value in figures.items()}, "statements": len(sent)}


def page(hub: HubFixture, path: str) -> Callable[[], object]:
    """A request that has to succeed."""

    def ask() -> None:
        answer = hub.client.get(path, headers=hub.auth(), follow_redirects=False)
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:300]}")

    return ask


def whole_list(hub: HubFixture) -> None:
    """Every device, page by page, as `fleet device list` asks for them."""
    after: str | None = ""
    while after is not None:
        after = hub.client.get(f"/api/v1/devices?limit=1000&after={after}", headers=hub.auth()).json()["next"]


def reports(hub: HubFixture, size: int) -> Callable[[], None]:
    """A second passes: a sixtieth of the fleet is heard, and a few devices bring evidence."""
    turn = 0

    def heard() -> None:
        nonlocal turn
        hub.clock.advance(1.0)
        ids = [large_fleet.name_of(n) for n in range(turn % 60, size, 60)]
        turn += 1
        with hub.hub.session() as session:
            for at in range(0, len(ids), 500):
                some = col(Device.id).in_(ids[at : at + 500])
                session.connection().execute(update(Device).where(some).values(last_seen_at=hub.clock()))
            some = col(PairEvidence.device_id).in_(ids[: max(1, len(ids) // 6)])
            session.connection().execute(update(PairEvidence).where(some).values(both=PairEvidence.both + 1))

    return heard


class Speakers:
    """Devices of a fleet that say in turn what came of audited inputs.

    Args:
        hub: it has the fleet.
        rollout: that they speak of.
        size: devices.
    """

    def __init__(self, hub: HubFixture, rollout: str, size: int) -> None:
        self._hub, self._rollout, self._size = hub, rollout, size
        self._rng, self._spoken, self._batch = random.Random(size), Counter[str](), list[Message]()

    def prepare(self, shared: float) -> None:
        """Write the next batch, the share `shared` of it of inputs that all devices meet."""
        self._batch = []
        for number in self._rng.sample(range(self._size), min(BATCH, self._size)):
            name = large_fleet.name_of(number)
            met = self._rng.sample(range(SHARED), round(EACH * shared))
            own = [self._rng.randrange(2**32, 2**60) for _ in range(EACH - len(met))]
            self._spoken[name] += 1
            self._batch.append(claiming(self._rollout, self._spoken[name], name, dict.fromkeys(met + own, "both")))

    def speak(self) -> None:
        """The hub takes the batch in."""
        Ingestor(self._hub.hub).take(self._batch)

    def say(self) -> None:
        """A batch is written and taken in."""
        self.prepare(0.5)
        self.speak()


def create(hub: HubFixture) -> str:
    """A rollout of the whole channel in four stages."""
    stages = [1, 10, 50, 100]
    return create_rollout(
        hub.hub,
        model=large_fleet.MODEL,
        release=2,
        channel=large_fleet.CHANNEL,
        stages=stages,
        guard=GUARD,
        actor="benchmark",
    ).id


def write_beside(hub: HubFixture, work: Callable[[], object]) -> tuple[float, float]:
    """Measure what writing a report takes alone (median), and at most while `work` goes on; in ms."""
    stop, took = Event(), list[float]()

    def write() -> None:
        while not stop.wait(0.005):
            began = time.perf_counter()
            with hub.hub.session() as session:
                first = col(Device.id) == large_fleet.name_of(0)
                session.connection().execute(update(Device).where(first).values(last_seen_at=hub.clock()))
            took.append(1000 * (time.perf_counter() - began))

    thread = Thread(target=write)
    thread.start()
    time.sleep(0.5)
    alone = median(took)
    took.clear()
    work()
    stop.set()
    thread.join()
    return round(alone, 1), round(max(took, default=0.0), 1)


def measure(hub: HubFixture, size: int, rounds: int) -> dict[str, Any]:
    """Every kind of work at one size."""
    large_fleet.releases(hub)
    large_fleet.devices(hub, size)
    found: dict[str, Any] = {}
    rollouts: list[str] = []

    def again() -> None:
        if rollouts:
            apply_order(hub.hub, rollouts[-1], "abort", "", "benchmark")

    found["create"] = timed(hub, lambda: rollouts.append(create(hub)), again, rounds=rounds)
    again()
    alone, most = write_beside(hub, lambda: rollouts.append(create(hub)))
    found["create"] |= {"ingest_alone_ms": alone, "ingest_most_ms": most}
    apply_order(hub.hub, rollouts[-1], "promote", "for the benchmark", "benchmark")
    apply_order(hub.hub, rollouts[-1], "promote", "for the benchmark", "benchmark")
    large_fleet.evidence(hub, rollouts[-1], size)
    engine = RolloutEngine(hub.hub)
    found["first_step"] = timed(hub, engine.step, rounds=1)
    found["step"] = timed(hub, engine.step, reports(hub, size), rounds=rounds)
    speakers = Speakers(hub, rollouts[-1], size)
    found["claims"] = timed(hub, speakers.speak, lambda: speakers.prepare(0.5), rounds=rounds)
    found["claims_known"] = timed(hub, speakers.speak, lambda: speakers.prepare(1.0), rounds=rounds)
    found["step_after_claims"] = timed(hub, engine.step, speakers.say, rounds=rounds)
    hub.client.post("/login", data={"token": hub.admin_token})
    for name, path in PAGES.items():
        found[name] = timed(hub, page(hub, path), rounds=rounds)
    if size <= LISTED:
        found["whole_device_list"] = timed(hub, lambda: whole_list(hub), rounds=1)
    print(size, json.dumps(found), flush=True)
    return found


def slope(sizes: dict[str, Any], work: str) -> float | None:
    """Milliseconds of this process per 1,000 devices more, between the smallest and the largest size."""
    known = sorted((int(size), found[work]["cpu_ms"]) for size, found in sizes.items() if work in found)
    if len(known) < 2:
        return None
    (low, first), (high, last) = known[0], known[-1]
    return float(round(1000 * (last - first) / (high - low), 3))


@contextmanager
def hub_on(kind: str) -> Iterator[Callable[[], HubFixture]]:
    """Makes hubs on a database of that kind."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "sqlite":
            yield lambda: make_hub(Path(tempfile.mkdtemp(dir=folder)))
            return
        with cluster() as connection:
            yield lambda: make_hub(
                Path(tempfile.mkdtemp(dir=folder)), database=migrated_postgres(connection, "edgeloop_size")
            )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each kind of work")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fleet_size.json")
    options = parser.parse_args()
    document: dict[str, Any] = {"machine": machine("numpy", "sqlalchemy", "msgspec")}
    for kind in options.databases.split(","):
        sizes: dict[str, Any] = {}
        with hub_on(kind) as make:
            for size in options.sizes.split(","):
                hub = make()
                try:
                    sizes[size] = measure(hub, int(size), options.rounds)
                finally:
                    hub.hub.engine.dispose()
                works = sorted({work for found in sizes.values() for work in found})
                slopes = {work: slope(sizes, work) for work in works}
                document[kind] = {"sizes": sizes, "cpu_ms_per_1000_devices": slopes}
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

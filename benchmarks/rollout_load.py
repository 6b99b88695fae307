"""The load of a hub with 1,000, 5,000 and 10,000 devices: a good rollout that finishes, a bad one that halts.

For each database and size a hub is started as an operator does, with its own Mosquitto, and `fleet simulate` beside it:

    enrol   every device gets a token, a certificate and a connection, and installs the channel's release
    good    all connect again at once; a rollout in four stages finishes by what audited requests say
    bad     all connect again; every device answers 5 % of its inputs wrong with the next release: the rollout halts

Of each part the file has the seconds, records that were taken and acknowledged per second, how long a record waited for
its receipt (p50, p99, longest), the seconds of processor of hub, broker, database and simulation, the largest memory of
each (PSS), and the messages that the hub took by their kind, with those that came again (`repeated`), too early or
found no room (`dropped`). Of `good` and `bad` also what a step of the rollouts' engine and of the drift engine took:
the wall clock, and this thread's processor, which a busy machine does not distort. `slope` is what a step's processor
costs more per 1,000 devices, between the smallest and the largest size. PostgreSQL runs without fsync, as in the tests.
`set` is what devices were set to: a telemetry window of a minute suits 1,000 devices, one of five minutes 10,000.
The command fails (exit code 1) when the good rollout does not finish, the bad one does not halt, or a record is lost.

    nice -n 19 python benchmarks/fleet.py [--devices 1000,5000] [--database sqlite] [--only enrol,good] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.machine import machine
from fleet.protocol.manifest import encode_manifest
from fleet.simulator.device import HEARTBEAT_S
from tests.support import models
from tests.support.hub_process import ENVIRONMENT, ROOT
from tests.support.operated_hub import OperatedHub
from tests.support.postgres import cluster, create_database

SIZES = "1000,5000,10000"
PARTS = ("enrol", "good", "bad")
STAGES, FEW = [1, 10, 50, 100], [25, 50, 75, 100]  # few: of less than `MANY` devices one per cent is nobody
MANY = 500
# 60 audited requests per device and minute, of which 2 % differ each way: some 200 pairs show a loss below five points.
GUARD = {"margin": 0.05, "min_pairs": 100, "evidence_deadline_s": 3600.0, "silent_after_s": 600.0}
WINDOW_S = 60
LOOK_S = 2.0
TICKS_S = os.sysconf("SC_CLK_TCK")


class Load:
    """One hub with its simulated devices."""

    def __init__(
        self, folder: Path, devices: int, limit_s: float, *, database: str, window_s: int, audited: float
    ) -> None:
        self.folder, self.devices, self.limit_s = folder, devices, limit_s
        self.window_s, self.audited = window_s, audited
        self.postgres = database if database.startswith("postgresql") else ""
        self.hub = OperatedHub(folder, *(("--database", database) if self.postgres else ()))

    def prepare(self) -> None:
        """Three releases, the first on the channel."""
        hub, blobs = self.hub, self.folder / "blobs"
        hub.start()
        hub.call("POST", "/api/v1/models", {"name": "tiny"})
        data = models.litert_bytes("fp32")
        made = [models.release(blobs, data=data, runtime="litert", threshold=0.99 - n / 1000) for n in range(3)]
        for path in blobs.iterdir():
            hub.call("PUT", f"/api/v1/blobs/{path.name}", path.read_bytes())
        for release in made:
            hub.call("POST", "/api/v1/models/tiny/releases", encode_manifest(release.manifest))
        entry = {
            "release": 1,
            "probation": {"seconds": 5, "requests": 3},
            "audit": {"auditor": 1, "share_ppm": round(self.audited * 1e6)},
        }
        hub.call("PUT", "/api/v1/channels/stable/models/tiny", entry)
        hub.call("PATCH", "/api/v1/channels/stable", {"telemetry": {"window_s": self.window_s}})

    def enrol(self) -> dict[str, Any]:
        """All devices enrol and install the channel's release."""
        return self._watched(lambda simulation: simulation.wait(self.limit_s), "--for", "1s", "--drain", "1h")

    def good(self) -> dict[str, Any]:
        """A rollout of a release as good as the one before."""
        return self._rolled_out(2, "finished")

    def bad(self) -> dict[str, Any]:
        """A rollout of a release that is worse on every device."""
        return self._rolled_out(3, "halted", "--profile", "wrong=100%")

    def _rolled_out(self, release: int, end: str, *options: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def act(simulation: subprocess.Popen[str]) -> None:
            began = time.monotonic()
            self._until(lambda: self._online() >= self.devices, simulation, "all are online")
            found["connect_s"] = round(time.monotonic() - began, 1)
            before, begun = self._metrics(), time.monotonic()
            stages = STAGES if self.devices >= MANY else FEW
            body = {"model": "tiny", "release": release, "channel": "stable", "stages": stages, "guard": GUARD}
            rollout = self.hub.call("POST", "/api/v1/rollouts", body)["id"]
            found["create_s"] = round(time.monotonic() - begun, 2)
            self._until(lambda: self._ended(rollout), simulation, f"the rollout is {end}")
            said = self.hub.call("GET", f"/api/v1/rollouts/{rollout}")
            found["rollout"] = {"state": said["state"], "reason": said["reason"], "exposed": said["exposed_devices"]}
            found["rollout"]["seconds"] = round(time.monotonic() - begun, 1)
            found["steps"] = looks(before, self._metrics())
            simulation.send_signal(signal.SIGINT)
            simulation.wait(300)

        found |= self._watched(act, "--for", "1h", "--drain", "60s", *options)
        found["held"] = found["rollout"]["state"] == end
        return found

    def _watched(self, act: Callable[[subprocess.Popen[str]], object], *options: str) -> dict[str, Any]:
        """Run `fleet simulate` and `act`, and look at all processes meanwhile."""
        ca = str(self.hub.directory / "keys" / "ca.pem")
        login = {"EDGELOOP_HUB": self.hub.url, "EDGELOOP_TOKEN": self.hub.token, "EDGELOOP_CA": ca}
        directory = str(self.folder / "devices")
        command = [sys.executable, "-m", "fleet.cli.main", "simulate", str(self.devices), "--dir", directory, "--json"]
        began, before = time.monotonic(), self._metrics()
        with (self.folder / "simulate.log").open("ab") as said, (self.folder / "report").open("w+") as report:
            simulation = subprocess.Popen(
                [*command, *options], env={**ENVIRONMENT, **login}, cwd=ROOT, stdout=report, stderr=said, text=True
            )
            try:
                with self._looking(simulation.pid) as processes:
                    act(simulation)
            finally:
                simulation.kill()
                simulation.wait()
            report.seek(0)
            text = report.read()
        if not text:
            raise SystemExit(f"fleet simulate: {(self.folder / 'simulate.log').read_text()[-2000:]}")
        told = json.loads(text)
        kept = ("enrolled", "records", "receipted", "waiting", "lost", "refused", "looks", "releases")
        found = {"seconds": round(time.monotonic() - began, 1), **{name: told[name] for name in kept}}
        found["troubles"] = dict(sorted(told["troubles"].items(), key=lambda item: -item[1])[:5])
        found["delay_s"] = {name: round(value, 3) for name, value in told["delay_s"].items()}
        found["receipts_per_s"] = round(told["receipted"] / found["seconds"], 1)
        found["messages"] = messages(before, self._metrics())
        return found | {"processes": processes}

    @contextlib.contextmanager
    def _looking(self, simulation: int) -> Iterator[dict[str, dict[str, float]]]:
        """Processor and memory of all who take part, complete after the block."""
        stop, found, ends = threading.Event(), dict[str, dict[str, float]](), dict[int, tuple[str, float, float]]()

        def look() -> None:
            while True:
                sums: dict[str, float] = {}
                for name, number in self._numbers(simulation):
                    with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
                        used = processor_s(number)
                        _, first, _ = ends.setdefault(number, (name, used, used))
                        ends[number] = (name, first, used)
                        sums[name] = sums.get(name, 0.0) + memory(number)
                for name, size in sums.items():
                    one = found.setdefault(name, {"memory_mib": 0.0})
                    one["memory_mib"] = round(max(one["memory_mib"], size / 2**20), 1)
                if stop.wait(LOOK_S):
                    break

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield found
        finally:
            stop.set()
            thread.join()
            for name, one in found.items():
                one["cpu_s"] = round(sum(last - first for kind, first, last in ends.values() if kind == name), 1)

    def _numbers(self, simulation: int) -> Iterator[tuple[str, int]]:
        assert self.hub.process is not None
        yield "hub", self.hub.process.pid
        for number in (simulation, *children(simulation)):
            yield "simulation", number
        with contextlib.suppress(OSError, ValueError, IndexError):
            yield "broker", self.hub.mosquitto()
        if self.postgres:
            for number in children(int(os.environ["EDGELOOP_BENCHMARK_POSTGRES"])):
                yield "database", number

    def _until(self, look: Callable[[], object], simulation: subprocess.Popen[str], what: str) -> None:
        deadline = time.monotonic() + self.limit_s
        while not look():
            if simulation.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "simulate.log").read_text()[-1500:]
                page = [[one["state"], one["stage"], one["reason"], one["verdict"]] for one in self._rollouts()]
                raise SystemExit(f"in vain: {what}, within {self.limit_s:g} s\n{page}\n{log}\n{self.hub.log()[-3000:]}")
            time.sleep(LOOK_S)

    def _ended(self, rollout: str) -> bool:
        return self.hub.call("GET", f"/api/v1/rollouts/{rollout}")["state"] in ("finished", "halted", "aborted")

    def _rollouts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.hub.call("GET", "/api/v1/rollouts")["items"]
        return found

    def _online(self) -> float:
        return self._metrics().get(("edgeloop_hub_devices", "online"), 0.0)

    def _metrics(self) -> dict[tuple[str, str], float]:
        """Each sample of `/metrics` that has one label, by its name and that label's value."""
        text = scrape(self.hub)
        return {
            (sample.name, next(iter(sample.labels.values()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if len(sample.labels) == 1
        }


def scrape(hub: OperatedHub) -> str:
    """`/metrics` as text."""
    import urllib.request

    request = urllib.request.Request(hub.url + "/metrics", headers={"Authorization": f"Bearer {hub.token}"})
    with urllib.request.urlopen(request, context=hub.context, timeout=120) as answer:
        return str(answer.read().decode())


def messages(before: dict[tuple[str, str], float], after: dict[tuple[str, str], float]) -> dict[str, int]:
    """Count the hub's messages between two scrapes, by their kind: also those that came again, too early, or found
    no room."""
    return {
        kind: round(count - before.get((name, kind), 0.0))
        for (name, kind), count in sorted(after.items())
        if name == "edgeloop_hub_messages_total" and count > before.get((name, kind), 0.0)
    }


def looks(before: dict[tuple[str, str], float], after: dict[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    """Count the looks of the engines between two scrapes, and the average time of each."""
    found = {}
    for service in ("rollouts", "drift"):

        def more(name: str, service: str = service) -> float:
            return after.get((name, service), 0.0) - before.get((name, service), 0.0)

        count = more("edgeloop_hub_look_seconds_count")
        if count:
            found[service] = {
                "looks": count,
                "ms": round(1000 * more("edgeloop_hub_look_seconds_sum") / count, 2),
                "cpu_ms": round(1000 * more("edgeloop_hub_look_cpu_seconds_sum") / count, 2),
            }
    return found


def children(number: int) -> list[int]:
    """The children of a process, by all of its threads."""
    found = []
    for path in Path(f"/proc/{number}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(text) for text in path.read_text().split()]
    return found


def processor_s(number: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def memory(number: int) -> float:
    """Bytes of a process (PSS)."""
    for line in Path(f"/proc/{number}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024.0 * int(line.split()[1])
    return 0.0


def measure(load: Load, parts: list[str], keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The parts that are wanted, in order; the devices have to enrol in any case. `keep` gets what is known after each:
    whatever ends a run of hours leaves what was measured until then."""
    found: dict[str, Any] = {
        "machine": machine("sqlalchemy", "paho-mqtt"),
        "set": {"window_s": load.window_s, "audited": load.audited, "heartbeat_s": HEARTBEAT_S, "guard": GUARD},
    }
    load.prepare()
    try:
        for part in PARTS:
            if part == PARTS[0] or part in parts:
                found[part] = getattr(load, part)()
                keep(found)
                print(load.devices, part, json.dumps(found[part]), flush=True)
    finally:
        load.hub.stop()
    return found


def slope(sizes: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of processor per 1,000 devices more, of a step of each engine while the good rollout runs."""
    known = sorted((int(size), found["good"]["steps"]) for size, found in sizes.items() if "good" in found)
    if len(known) < 2:
        return {}
    (low, first), (high, last) = known[0], known[-1]
    return {
        name: round(1000 * (last[name]["cpu_ms"] - first[name]["cpu_ms"]) / (high - low), 3)
        for name in first.keys() & last.keys()
    }


@contextlib.contextmanager
def databases(kind: str) -> Iterator[Callable[[int], str]]:
    """Names a fresh database for each size; of SQLite there is nothing to name."""
    if kind == "sqlite":
        yield lambda _size: ""
        return
    with cluster() as connection:
        folder = Path(f"/proc/{_postmaster(connection)}")
        os.environ["EDGELOOP_BENCHMARK_POSTGRES"] = folder.name
        yield lambda size: create_database(connection, f"edgeloop_{size}")


def _postmaster(connection: str) -> int:
    import psycopg

    with psycopg.connect(f"{connection} dbname=postgres") as session:
        folder = session.execute("SHOW data_directory").fetchone()
    assert folder is not None
    return int(Path(folder[0], "postmaster.pid").read_text().split()[0])


def wrong(found: dict[str, Any]) -> list[str]:
    """Return the broken expectations, in words."""
    said = []
    for part, one in found.items():
        if one["lost"] or (one["waiting"] and part == PARTS[0]):  # the others end in the middle of what they send
            said.append(f"{part}: {one['lost']} records lost, {one['waiting']} without a receipt")
        if not one.get("held", True):
            said.append(f"{part}: the rollout is {one['rollout']['state']}: {one['rollout']['reason']}")
    return said


class Results:
    """The file of results, complete after each part; what it has of other sizes and databases stays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def keep(self, kind: str, size: str, found: dict[str, Any]) -> None:
        """Write what is known of a fleet by now."""
        sizes = self._document.get(kind, {}).get("sizes", {}) | {size: found}
        self._document[kind] = {"sizes": sizes, "cpu_ms_per_1000_devices": slope(sizes)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._document, indent=1) + "\n")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default=SIZES, help="sizes of the fleet")
    parser.add_argument("--database", default="sqlite,postgresql")
    parser.add_argument("--only", default=",".join(PARTS), help="parts; the devices enrol in any case")
    parser.add_argument("--window", type=int, default=WINDOW_S, help="seconds of a telemetry window")
    parser.add_argument("--audited", type=float, default=1.0, help="share of requests that the auditor answers, too")
    parser.add_argument("--limit", type=float, default=1500.0, help="seconds that one part may take")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fleet.json")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("ended by a signal"))  # hub and devices end, too
    results, failed = Results(options.out), []
    for kind in options.database.split(","):
        with databases(kind) as fresh:
            for size in options.devices.split(","):
                with tempfile.TemporaryDirectory() as folder:
                    database = fresh(int(size))
                    load = Load(
                        Path(folder),
                        int(size),
                        options.limit,
                        database=database,
                        window_s=options.window,
                        audited=options.audited,
                    )
                    found = measure(load, options.only.split(","), partial(results.keep, kind, size))
                parts = {name: one for name, one in found.items() if name in PARTS}
                failed += [f"{kind}, {size} devices, {text}" for text in wrong(parts)]
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()

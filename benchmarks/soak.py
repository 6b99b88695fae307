"""An hour at half load, while releases are swapped, the cloud is away or hangs, and the broker is restarted.

`make soak` (`python benchmarks/soak.py --minutes 60`) starts a hub, its broker and an agent as an operator does, and
two applications: one asks over HTTP half as often as the agent can answer, every request unsure enough to be deferred
and most of them beyond the channel's rate of calls; one asks in process. Every `--every` seconds something happens:

    swap      another release becomes the channel's default
    broker    Mosquitto is killed; the hub starts it again
    outage    the hub is killed, and started again after a while: no cloud, no broker, no updates
    hang      the hub is stopped in the middle of whatever it does, and goes on after a while

`benchmarks/results/soak.json` has the requests with those that failed, the memory of agent and application over time
(PSS, bytes), open files, and the machine's description. The command fails (exit code 1) when a request failed, when an
event did not come to its end, or, from ten minutes on, when memory grew: the median of the last tenth is over that of
the second tenth by more than 3 % and 1 MiB.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from edge_agent.update.disk.state import read_state
from fleet.protocol.manifest import encode_manifest
from tests.support import models
from tests.support.agent_process import ROOT, running
from tests.support.operated_hub import OperatedHub, command, until

EVENTS = ("swap", "broker", "swap", "outage", "swap", "hang")
RELEASES = 3
LOCAL_RATE = 100.0  # requests a second in process
CALLS_PER_S = 20.0  # to the cloud; beyond, the local answer goes out
WINDOW_S = 2
POINTS = 240  # looks at the memory
JUDGED_S = 600.0  # a shorter soak shows its memory and does not judge it
GROWTH, SLACK = 0.03, 1 << 20


class Soak:
    """One hub, one agent, two applications, and what is done to them."""

    def __init__(self, folder: Path, away_s: float) -> None:
        self.folder, self.away_s = folder, away_s
        self.device = folder / "device"
        self.hub = OperatedHub(folder)
        self.happened: Counter[str] = Counter()
        self._killed = 0
        self._release = itertools.cycle(range(1, RELEASES + 1))

    def prepare(self) -> None:
        """Releases on a channel, and a device that follows it."""
        hub, blobs = self.hub, self.folder / "blobs"
        hub.start()
        hub.call("POST", "/api/v1/models", {"name": "tiny"})
        data = models.litert_bytes("fp32")
        made = [models.release(blobs, data=data, runtime="litert", threshold=0.99 - n / 1000) for n in range(RELEASES)]
        for path in blobs.iterdir():
            hub.call("PUT", f"/api/v1/blobs/{path.name}", path.read_bytes())
        for release in made:
            hub.call("POST", "/api/v1/models/tiny/releases", encode_manifest(release.manifest))
        self.swap()
        hub.call("PATCH", "/api/v1/channels/stable", {"telemetry": {"window_s": WINDOW_S}})
        token = hub.call("POST", "/api/v1/tokens", {"kind": "claim", "channel": "stable"})["token"]
        command("edge-agent", "enroll", hub.url, "--token", token, "--name", "cam-1", "--dir", str(self.device))
        (self.device / "agent.toml").write_text("poll_s = 1.0\npoll_jitter = 0.0\ndisk_reserve_bytes = 0\n")

    def swap(self) -> None:
        """Make the next release the default; the agent has committed it on return, if there is an agent."""
        number = next(self._release)
        self.hub.call(
            "PUT",
            "/api/v1/channels/stable/models/tiny",
            {
                "release": number,
                "probation": {"seconds": 5, "requests": 20},
                "routing": {"calls_per_s": CALLS_PER_S, "deadline_ms": 500},
                "audit": {"auditor": 1, "share_ppm": 1000},
                "sampling": {"enabled": True, "random_ppm": 1000},
            },
        )
        if self.device.exists():
            until(lambda: self.serves(number), f"the agent serves release {number}")

    def counted(self) -> int:
        """The requests in the windows that the hub has."""
        rows = self.hub.rows("SELECT json_extract(body, '$.counters.requests') FROM window")
        return sum(row[0] or 0 for row in rows)

    def serves(self, number: int) -> bool:
        """Tell whether the device has committed that release."""
        model = read_state(self.device).models.get("tiny")
        return model is not None and model.state == "committed" and (model.active and model.active.release) == number

    def broker(self) -> None:
        """Kill the broker; another one runs on return, and the device has come back to it."""
        until(self._kill_broker, "a broker runs")
        old = self._killed
        until(lambda: self._other_broker(old), "the broker comes back")
        until(lambda: self.hub.device()["state"] == "online", "the device comes back")

    def _kill_broker(self) -> bool:
        with contextlib.suppress(OSError, ValueError, IndexError):  # of a broker that ended a moment ago
            self._killed = self.hub.mosquitto()
            os.kill(self._killed, signal.SIGKILL)
            return True
        return False

    def _other_broker(self, old: int) -> bool:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return self.hub.mosquitto() != old
        return False

    def outage(self) -> None:
        """Kill the hub, and start it again."""
        self.hub.stop(signal.SIGKILL)
        time.sleep(self.away_s)
        self.hub.start()

    def hang(self) -> None:
        """Stop the hub in the middle of its work, and let it go on."""
        assert self.hub.process is not None
        self.hub.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(self.away_s)
        finally:
            self.hub.process.send_signal(signal.SIGCONT)

    def do(self, name: str) -> None:
        """One of `EVENTS`."""
        what: dict[str, Callable[[], None]] = {
            "swap": self.swap,
            "broker": self.broker,
            "outage": self.outage,
            "hang": self.hang,
        }
        what[name]()
        self.happened[name] += 1


class Process:
    """The memory and the open files of a process over time."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self.memory: list[int] = []
        self.files: list[int] = []

    def look(self) -> None:
        """Note memory (PSS) and open files now."""
        for line in (self._folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                self.memory.append(int(line.split()[1]) << 10)
        self.files.append(sum(1 for _ in (self._folder / "fd").iterdir()))

    def document(self) -> dict[str, Any]:
        """The looks, and by how much memory grew after the first tenth, in which pools fill."""
        tenth = max(1, len(self.memory) // 10)
        early, late = median(self.memory[tenth : 2 * tenth] or self.memory), median(self.memory[-tenth:])
        return {
            "pss_bytes": self.memory,
            "early_mib": round(early / 2**20, 2),
            "late_mib": round(late / 2**20, 2),
            "grew": late > early * (1 + GROWTH) + SLACK,
            "files": [min(self.files), max(self.files), self.files[-1]],
        }


@contextlib.contextmanager
def application(*arguments: str, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One of `soak_load`'s; ended, and its file written, with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.soak_load", *arguments, str(out)], cwd=ROOT, stdin=subprocess.PIPE
    ) as process:
        try:
            yield process
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(120) == 0
        finally:
            process.kill()


def soak(
    folder: Path, seconds: float, every_s: float, away_s: float, events: Sequence[str] = EVENTS, rate: float = 0.0
) -> dict[str, Any]:
    """Run it; the document without the machine. `rate` 0: half of what the agent can answer."""
    made = Soak(folder, away_s)
    made.prepare()
    http, local = folder / "http.json", folder / "local.json"
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: made.hub.stop(signal.SIGTERM))
        agent, address = stack.enter_context(running(made.device, "--port", "0"))
        until(lambda: made.serves(1), "the agent serves")
        with (
            application("http", address, "tiny", str(rate), out=http),
            application("in-process", str(made.device), "tiny", str(LOCAL_RATE), out=local) as app,
        ):
            until(lambda: all(out.with_suffix(".ready").exists() for out in (http, local)), "both applications ask")
            seen = {"agent": Process(agent.pid), "application": Process(app.pid)}
            disturb(made, list(seen.values()), seconds, every_s, events)
        asked = json.loads(http.read_text())["requests"]
        until(lambda: made.counted() >= asked, "what the agent has to tell arrives")
        counted = made.counted()
    document: dict[str, Any] = {
        "seconds": seconds,
        "events": dict(made.happened),
        "http": json.loads(http.read_text()),
        "in_process": json.loads(local.read_text()),
        "counted_at_the_hub": counted,
        **{name: process.document() for name, process in seen.items()},
    }
    failed = document["http"]["failed"] + document["in_process"]["failed"]
    asked = min(document["http"]["requests"], document["in_process"]["requests"]) > 0
    grew = [name for name in seen if document[name]["grew"]] if seconds >= JUDGED_S else []
    return {
        **document,
        "failed": failed,
        "memory_judged": seconds >= JUDGED_S,
        "passed": asked and not failed and not grew,
    }


def disturb(made: Soak, seen: list[Process], seconds: float, every_s: float, events: Sequence[str]) -> None:
    """One event after the other until the time is over, each at least once; memory is looked at between."""
    start, names = time.monotonic(), itertools.cycle(events)
    next_look, next_event = start, start + every_s
    while time.monotonic() < start + seconds or sum(made.happened.values()) < len(events):
        now = time.monotonic()
        if now >= next_look:
            for process in seen:
                process.look()
            next_look = now + seconds / POINTS
        if now >= next_event:
            name = next(names)
            made.do(name)
            print(f"{time.monotonic() - start:7.1f} s  {name} took {time.monotonic() - now:.1f} s", flush=True)
            next_event = time.monotonic() + every_s
        time.sleep(max(0.0, min(next_look, next_event) - time.monotonic()))


def main() -> int:
    """Soak, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two events")
    parser.add_argument("--away", type=float, default=10.0, help="seconds that the hub is away or hangs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "soak.json")
    options = parser.parse_args()
    described = machine()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), options.minutes * 60, options.every, options.away)
    short = {name: value for name, value in found.items() if name not in ("agent", "application")}
    memory = {name: {**found[name], "pss_bytes": "…"} for name in ("agent", "application")}
    print(json.dumps({**short, **memory}, indent=1), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": described, **found}, indent=1) + "\n")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())

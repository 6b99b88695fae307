"""The cost of a request of the local API beside the model, stage by stage, in microseconds of this process's CPU time.

`python benchmarks/hot_route.py` asks for nothing but the repository; the model is keyword spotting where
`EDGELOOP_DATA` names a folder with it, else a tiny one. No socket and no client: bytes are fed into the protocol class
as a transport would, so that each figure is the agent's own work. Stages are measured in turns, in batches of which the
fastest counts, since whatever else the machine does can only add to it.

    bare      set input, invoke, get output of the runtime
    model     the same behind the runtime's port: input checked against what is allocated, output the caller's own
    http      parsing, framing and connection rules, writing, with a route that answers a constant
    begin     path, access, and the most bytes that the body may have
    decode    the body's JSON and its tensors
    engine    all of an answer: policy, checks, the model, its score, counters, the parameters of the answer
    encode    the answer's JSON and bytes
    record    what windows, metrics and samples take of the request, when its answer is out
    whole     all of it, bytes in, bytes out, recorded
    echo      uvicorn's protocol class with an ASGI function that answers as many bytes: what `whole` is compared with

`ratio` is whole ÷ (bare + echo). Both sides of it lack the system calls that a real request has. `--processes` measures
with them: CPU time per request of a real agent, and of the echo under uvicorn, at one client and at 64.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from benchmarks.http_load import Client, per_second
from benchmarks.http_peers import CODE, PEERS, _await_listening, free_port
from benchmarks.over_http import CLIENTS, PATH, encoded, request
from benchmarks.requests import KEYWORDS, Bare, example, install
from edge_agent.serving.engine import Engine
from edge_agent.serving.infer import InferRoute, _reply
from edge_agent.serving.metrics import Metrics
from edge_agent.serving.outcomes import Afterwards, Outcome
from edge_agent.serving.policy import Policies
from edge_agent.serving.slots import Slots
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.open_windows import OpenWindows
from edge_agent.telemetry.recorder import Recorder
from edge_agent.telemetry.request_metrics import RequestMetrics
from edge_agent.telemetry.sampler import Sampler
from edge_agent.telemetry.samples import SampleStore
from edge_agent.telemetry.spool import Spool
from edge_agent.update.disk.state import StateFile
from edge_agent.update.disk.store import Store
from fleet.protocol import oip
from fleet.runtimes.cost import IN_FLIGHT
from fleet.serving import JSON, ByteBudget, HotRequest, Reply, Shared, hot_protocol
from tests.support import agent_process, models

BATCH = 50  # calls whose mean is one measurement
TOGETHER = 16  # requests of one turn
SPANS = 8  # of load on a process, of which the one that took the least counts


class Transport(asyncio.Transport):
    """Takes what is written to it."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 8200), "peername": ("127.0.0.1", 40000)})
        self.written = b""

    def write(self, data: Any) -> None:
        """Keep the last piece."""
        self.written = data

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_write_buffer_size(self) -> int:
        """All is taken at once."""
        return 0

    def pause_reading(self) -> None:
        """Nothing reads."""

    def resume_reading(self) -> None:
        """Nothing reads."""


class Constant:
    """A route that answers the same whatever it is asked."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    def begin(self, _request: HotRequest) -> int:
        """Any body."""
        return 1 << 20

    def answer(self, _request: HotRequest) -> Reply:
        """The constant."""
        return self.reply

    def too_large(self, _request: HotRequest, _size: int) -> Reply:
        """Never asked."""
        return self.reply


class Keeping:
    """An observer that keeps the last outcome."""

    def __init__(self) -> None:
        self.last: Any = None

    def finished(self, outcome: Outcome) -> None:
        """See `Observer`."""
        self.last = outcome

    def refused(self, refused: Any) -> None:
        """See `Observer`."""
        raise AssertionError(refused)

    def audit(self, *_: Any) -> None:
        """See `Observer`."""


def connection(kind: type[HttpToolsProtocol], app: Any) -> tuple[HttpToolsProtocol, Transport]:
    """A protocol of this class with its transport."""
    config = uvicorn.Config(
        app, http=kind, lifespan="off", access_log=False, log_config=None, server_header=False, date_header=False
    )
    protocol, transport = kind(config, ServerState(), {}), Transport()
    protocol.connection_made(transport)
    return protocol, transport


class Stage(NamedTuple):
    """A call; with `turn` the event loop turns after each, as it does between requests."""

    call: Callable[[], object]
    turn: bool = False


async def fastest(sides: Mapping[str, Stage], seconds: float) -> dict[str, float]:
    """Microseconds of CPU time of one call, in the fastest of many batches, which come in turns."""
    best, until = dict.fromkeys(sides, float("inf")), time.monotonic() + seconds
    while time.monotonic() < until:
        for name, (call, turn) in sides.items():
            call()  # the first one finds the caches as another stage has left them
            for _ in range(3):  # until all of it is recorded, and no turn before had several requests
                await asyncio.sleep(0)
            started = time.process_time_ns()
            if turn:
                for _ in range(BATCH):
                    call()
                    await asyncio.sleep(0)
            else:
                for _ in range(BATCH):
                    call()
            best[name] = min(best[name], (time.process_time_ns() - started) / BATCH / 1e3)
            await asyncio.sleep(0)
    return best


async def measure(directory: Path, data: bytes, seconds: float) -> dict[str, float]:
    """All stages of one model."""
    bare = Bare(data)
    install(directory, data, bare)
    state = StateFile(directory).state
    held = state.models["model"].active
    assert held is not None and state.looked.channel is not None
    slots, policies = Slots(), Policies()
    policies.apply(state.looked.channel)
    await slots.activate(Store(directory).open("model", held), None, None)
    database = Database(directory / "spool.db")
    sampler = Sampler(slots, policies, SampleStore(database, None), Spool(database), clock=time.time, rng=lambda: 0.999)
    windows = OpenWindows(slots, policies, clock=time.time, rng=lambda: 0.999)
    recorder = Recorder(slots, policies, windows, sampler, RequestMetrics(Metrics()))
    x = example(bare)
    wire = request(PATH, *encoded(x))
    sides = {"bare": Stage(lambda: bare(x))} | stages(slots, policies, recorder, wire)
    sides |= compared(Engine(slots, policies, None, Afterwards(recorder)), wire)
    found = await fastest(sides, seconds)
    turn = found.pop("turn")
    for name in ("engine", "whole", "echo"):
        found[name] -= turn
    found["together"] = (found["together"] - turn) / TOGETHER
    await slots.deactivate("model")
    database.close()
    return found


def stages(slots: Slots, policies: Policies, recorder: Recorder, wire: bytes) -> dict[str, Stage]:
    """Of `whole`, each by itself."""
    keeping, budget, loop = Keeping(), ByteBudget(IN_FLIGHT), asyncio.get_running_loop()
    engine = Engine(slots, policies, None, keeping)
    route = InferRoute(engine, budget)
    asked = _request(wire, loop.time())
    route.begin(asked)
    read = route._read(asked.context, asked.body)
    served = slots.find("model")
    assert served is not None
    interpreter = served.instances.idle()
    assert interpreter is not None
    inputs = {value.name: value.array for value in read.inputs}
    answer = engine.answer("model", "", read)
    assert isinstance(answer, oip.InferResponse)
    constant, _ = connection(hot_protocol(Shared(Constant(_reply(answer, read)), budget)), None)
    calls: dict[str, Callable[[], object]] = {
        "model": lambda: interpreter.run(inputs),
        "http": lambda: constant.data_received(wire),
        "begin": lambda: route.begin(asked),
        "decode": lambda: route._read(asked.context, asked.body),
        "encode": lambda: _reply(answer, read),
        "record": lambda: recorder.finished(keeping.last),
    }
    found = {name: Stage(call) for name, call in calls.items()}
    # Of several in one turn some would run together.
    return found | {"engine": Stage(lambda: engine.answer("model", "", read), turn=True)}


def compared(engine: Engine, wire: bytes) -> dict[str, Stage]:
    """All of a request, an echo, and a turn of the event loop alone, which the other two have in them."""
    budget = ByteBudget(IN_FLIGHT)
    ours, transport = connection(hot_protocol(Shared(InferRoute(engine, budget), budget)), None)
    ours.data_received(wire)
    body = transport.written.split(b"\r\n\r\n", 1)[1]
    assert transport.written.startswith(b"HTTP/1.1 200"), transport.written
    echo, _ = connection(HttpToolsProtocol, echo_of(body))
    others = [connection(hot_protocol(Shared(InferRoute(engine, budget), budget)), None)[0] for _ in range(TOGETHER)]

    def together() -> None:
        for other in others:
            other.data_received(wire)

    return {
        "whole": Stage(lambda: ours.data_received(wire), turn=True),
        "together": Stage(together, turn=True),
        "echo": Stage(lambda: echo.data_received(wire), turn=True),
        "turn": Stage(lambda: None, turn=True),
    }


def echo_of(body: bytes) -> Callable[..., Awaitable[None]]:
    """An ASGI function that reads a body and answers this one."""
    headers = [*(line.split(b": ", 1) for line in JSON.split(b"\r\n") if line), (b"content-length", b"%d" % len(body))]
    start = {"type": "http.response.start", "status": 200, "headers": headers}

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return app


def _request(wire: bytes, now: float) -> HotRequest:
    head, _, body = wire.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.split()
    pairs = (line.split(b": ", 1) for line in lines)
    found = HotRequest(method, target, {name.lower(): value for name, value in pairs}, now, unix=False)
    found.body = body
    return found


def processes(directory: Path, data: bytes, seconds: float) -> dict[str, float]:
    """Microseconds of CPU time per request of whole processes, system calls and all; clients are another process."""
    bare = Bare(data)
    install(directory, data, bare)
    agent_process.enrolled(directory)
    wire = request(PATH, *encoded(example(bare)))
    found = {}
    with agent_process.running(directory, "--port", "0") as (process, address):
        where = urlsplit(address).hostname or "", urlsplit(address).port or 0
        size = len(Client(where, wire).ask())
        for clients in (1, CLIENTS):
            found[f"agent_at_{clients}"] = _cpu_us(process.pid, where, wire, clients, seconds)
    port = free_port()
    command = (sys.executable, *(part.format(port=port) for part in PEERS["echo"].command))
    with subprocess.Popen(command, cwd=CODE, env={**os.environ, "PEER_ANSWER": str(size)}) as echo:
        _await_listening(echo, port, Path(os.devnull))
        for clients in (1, CLIENTS):
            found[f"echo_at_{clients}"] = _cpu_us(echo.pid, ("127.0.0.1", port), wire, clients, seconds)
        echo.kill()
    return found


def _cpu_us(pid: int, where: tuple[str, int], wire: bytes, clients: int, seconds: float) -> float:
    """In the best of several spans."""
    spans = []
    for _ in range(SPANS):
        before = _cpu_s(pid)
        answers = per_second(where, wire, clients, seconds / SPANS, warm_up_s=0) * seconds / SPANS
        spans.append((_cpu_s(pid) - before) / answers * 1e6)
    return min(spans)


def _cpu_s(pid: int) -> float:
    """Of all threads of a process, as the scheduler counts it in nanoseconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def main() -> None:
    """Measure and print; JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of all stages, and of each process")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--processes", action="store_true", help="whole processes in place of stages")
    options = parser.parse_args()
    keywords = Path(os.environ.get("EDGELOOP_DATA", "")) / KEYWORDS
    data = keywords.read_bytes() if keywords.is_file() else models.litert_bytes("fp32")
    gc.freeze()  # as the agent does once it serves
    with tempfile.TemporaryDirectory() as folder:
        if options.processes:
            found = processes(Path(folder), data, options.seconds)
        else:
            found = asyncio.run(measure(Path(folder), data, options.seconds))
            found["ratio"] = found["whole"] / (found["bare"] + found["echo"])
    found = {name: round(value, 2) for name, value in found.items()}
    print(json.dumps(found) if options.json else "\n".join(f"{name:12} {value:8.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()

"""The longest that one legal request keeps another client waiting; part of `benchmarks/requests.py`.

An agent's local API runs in a process of its own, with the tiny LiteRT classifier. One client asks for a row at a time;
another sends the most expensive requests that the API takes or refuses, one kind after the other, with as long a rest
before each kind. What a busy machine does to the first client alone is measured in the rests: the two are compared.
`cpu_ms` is what the agent's process computes for one request of the kind, whatever else the machine does: nobody waits
longer for it on a machine that has nothing else to do.

Held connections: 200 that send half a header and 40 that send 31 MB of a body and no more, to a model that may need so
much; what the agent's process grows by, and the slowest answer of a client beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import multiprocessing
import os
import socket
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from edge_agent import runtimes
from edge_agent.serving.server import make_server
from fleet.protocol import oip
from fleet.protocol.channel import ModelEntry
from tests.support import models
from tests.support.agent import Agent

PATH = "/v2/models/tiny/infer"
RUN_S = 1.5  # of each kind, and of each rest


def serve(directory: Path, listener: socket.socket, large: bool = False) -> None:
    """The agent's process; `large`: a stand-in for a model whose inputs may have any size."""

    async def run() -> None:
        agent = Agent(directory, runtime=None if large else runtimes.named("ai-edge-litert"))  # type: ignore[arg-type]
        agent.follow(ModelEntry(release=1))
        release = models.release(agent.blobs, data=models.litert_bytes(), runtime="litert")
        if large:
            tensor = replace(release.manifest.inputs[0], shape=(-1, -1))
            release = replace(release, manifest=replace(release.manifest, inputs=(tensor,)))
        await agent.slots.activate(release, None, None)
        await make_server(agent.app, agent.shared).serve([listener])

    asyncio.run(run())


def binary(x: np.ndarray[Any, Any], *, binary_output: bool = True) -> tuple[bytes, dict[str, str]]:
    """A request with the binary extension, and its headers."""
    request = oip.InferRequest(
        inputs=(oip.TensorValue("input", x),), binary_outputs=oip.ALL if binary_output else frozenset()
    )
    body, head = oip.encode_request(request)
    return body, {oip.HEADER: str(head)}


def in_json(data: str, shape: list[int], datatype: str = "FP32") -> tuple[bytes, dict[str, str]]:
    """A request in JSON."""
    head = json.dumps({"name": "input", "shape": shape, "datatype": datatype})[:-1]
    return f'{{"inputs":[{head},"data":{data}}}]}}'.encode(), {}


def kinds() -> dict[str, tuple[bytes, dict[str, str]]]:
    """The most expensive requests by kind."""
    rows = np.zeros((1024, 4), np.float32)
    return {
        "json_24000_rows": in_json("[" + ",".join(["0.12345678"] * 96_000) + "]", [24_000, 4]),
        "json_nested": in_json("[" + ",".join(["[0]"] * 24_000) + "]", [24_000, 1]),
        "json_deep": in_json("[" + ",".join(["[[[[[[[0]]]]]]]"] * 4_000) + "]", [4_000, *[1] * 7]),
        "json_text": in_json("[" + ",".join(['"a"'] * 96_000) + "]", [96_000], "BYTES"),
        "json_20_mb": in_json("[" + ",".join(["[0]"] * 5_000_000) + "]", [5_000_000, 1]),
        "rows_1024": binary(rows),
        "rows_1024_json_answer": binary(rows, binary_output=False),
        "bomb": (zlib.compress(b" " * (32 << 20), 9), {"Content-Encoding": "deflate"}),
    }


def ask(connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str]) -> int:
    """One request; its status."""
    connection.request("POST", PATH, body, headers)
    answer = connection.getresponse()
    answer.read()
    if answer.will_close:
        connection.close()
    return answer.status


def longest(address: str, stop: threading.Event) -> float:
    """The slowest of single-row requests until `stop`, in milliseconds."""
    connection = http.client.HTTPConnection(address, timeout=60)
    body, headers = binary(np.ones((1, 4), np.float32))
    slowest = 0.0
    while not stop.is_set():
        started = time.perf_counter()
        assert ask(connection, body, headers) == 200
        slowest = max(slowest, time.perf_counter() - started)
    connection.close()
    return slowest * 1e3


def disturb(address: str, body: bytes, headers: dict[str, str], until: float) -> list[int]:
    """Send one kind again and again; the statuses."""
    connection, seen = http.client.HTTPConnection(address, timeout=60), []
    while time.perf_counter() < until:
        try:
            seen.append(ask(connection, body, headers))
        except (BrokenPipeError, ConnectionResetError):  # refused before the body was read
            connection.close()
            seen.append(413)
    connection.close()
    return seen


def disturber(address: str, todo: Any, done: Any) -> None:
    """The other client's process, so that it does not hold up the first one itself."""
    every = kinds()
    for name in iter(todo.get, None):
        done.put(disturb(address, *every[name], time.perf_counter() + RUN_S))


def stalls() -> dict[str, Any]:
    """Per kind of request: the slowest answer of the other client beside it, and in the rest before it, ms."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = "{}:{}".format(*listener.getsockname())
        todo, done = context.Queue(), context.Queue()
        processes = [
            context.Process(target=serve, args=(Path(folder), listener), daemon=True),
            context.Process(target=disturber, args=(address, todo, done), daemon=True),
        ]
        for process in processes:
            process.start()
        longest_for(address, 1.0)
        found = {}
        for name in kinds():
            rest = longest_for(address, RUN_S)
            stop, slowest = threading.Event(), [0.0]

            def watch(stop: threading.Event = stop, slowest: list[float] = slowest) -> None:
                slowest[0] = longest(address, stop)

            thread = threading.Thread(target=watch)
            thread.start()
            todo.put(name)
            done.get()
            stop.set()
            thread.join()
            used = cpu_s(processes[0].pid or 0)
            todo.put(name)
            statuses = done.get()
            used = (cpu_s(processes[0].pid or 0) - used) / len(statuses)
            found[name] = {
                "cpu_ms": round(used * 1e3, 1),
                "slowest_ms": round(slowest[0], 1),
                "at_rest_ms": round(rest, 1),
                "statuses": sorted(set(statuses)),
            }
        for process in processes:
            process.terminate()
            process.join()
    return found


def cpu_s(pid: int) -> float:
    """The processor time that a process has used, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """The resident memory of a process, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) << 10


def hold(address: tuple[str, int], declared: int, sent: int) -> socket.socket:
    """A connection that has sent so much of a body, or half a header, and stays open."""
    held = socket.create_connection(address)
    held.settimeout(2)
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\n"
    with contextlib.suppress(OSError):  # the agent may have refused and closed, or take no more
        held.sendall(head.encode())
        if declared:  # as tensors behind the JSON: of JSON alone no such body is taken
            held.sendall(f"{oip.HEADER}: 100\r\ncontent-length: {declared}\r\n\r\n".encode() + b" " * sent)
    return held


def holders() -> dict[str, Any]:
    """Measure the cost of held connections for the agent and its other clients."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        process = context.Process(target=serve, args=(Path(folder), listener, True), daemon=True)
        process.start()
        where = listener.getsockname()
        address = "{}:{}".format(*where)
        longest_for(address, 1.0)
        rest = longest_for(address, RUN_S)
        before = resident(process.pid or 0)
        stop, slowest = threading.Event(), [0.0]
        thread = threading.Thread(target=lambda: slowest.__setitem__(0, longest(address, stop)))
        thread.start()
        held = [hold(where, 0, 0) for _ in range(200)] + [hold(where, 31 << 20, (31 << 20) - 1) for _ in range(40)]
        grown = resident(process.pid or 0) - before
        stop.set()
        thread.join()
        for one in held:
            one.close()
        process.terminate()
        process.join()
    return {"grown_mb": round(grown / 1e6, 1), "slowest_ms": round(slowest[0], 1), "at_rest_ms": round(rest, 1)}


def longest_for(address: str, seconds: float) -> float:
    """`longest` for so many seconds."""
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    return longest(address, stop)

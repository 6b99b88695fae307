"""The agent's process over HTTP beside other servers, the same bytes and the same runtime; part of `requests.py`.

One client: medians in turns, with the bare runtime and an echo of as many bytes among them. 64 clients: answers per
second, in rounds. Idle: what all processes of the agent take beyond a Python process with the runtime and the model.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.http_load import Client, p50_us, per_second
from benchmarks.http_peers import PEERS, running
from fleet.protocol import oip
from tests.support import agent_process

CLIENTS, ROUNDS = 64, 3
PATH = "/v2/models/model/infer"
LOADED = (
    "import sys, numpy; from ai_edge_litert.interpreter import Interpreter;"
    "i = Interpreter(model_content=open(sys.argv[1], 'rb').read(), num_threads=1); i.allocate_tensors();"
    "print(flush=True); sys.stdin.read()"
)


def over_http(
    directory: Path, data: bytes, bare: Callable[[], object], x: np.ndarray[Any, Any], seconds: float
) -> dict[str, Any]:
    """All figures of one model.

    Args:
        directory: of an agent, with the release installed.
        data: the model file.
        bare: one answer of the bare runtime to `x`.
        seconds: of the comparison at one client, and of all rounds of one server together.
    """
    (directory / "bare.tflite").write_bytes(data)
    agent_process.enrolled(directory)
    uds, arguments = directory / "api.sock", ("--port", "0", "--uds", str(directory / "api.sock"))
    with agent_process.running(directory, *arguments, environment=bytecode(directory)):
        pass  # its modules are compiled now, as those of an installed agent are
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        process, address = stack.enter_context(
            agent_process.running(directory, *arguments, environment=bytecode(directory))
        )
        found: dict[str, Any] = {
            "ready_s": round(time.perf_counter() - started, 2),
            "idle": idle(process.pid, directory),
        }
        host, port = urlsplit(address).hostname or "", urlsplit(address).port or 0
        ours, body, head = (host, port), *encoded(x)
        answer = Client(ours, request(PATH, body, head)).ask()
        environment = {
            "PEER_MODEL": str(directory / "bare.tflite"),
            "PEER_ANSWER": str(len(answer)),
            "PEER_HEAD": str(head),
        }
        where, left_out = {"ours": ours}, {}
        asked = {"ours": request(PATH, body, head)}
        for name, peer in PEERS.items():
            try:
                asked[name] = request(peer.path, body, head)
                place = stack.enter_context(running(name, environment))
                Client(place, asked[name]).ask()
                where[name] = place
            except (RuntimeError, OSError) as error:
                left_out[name] = str(error)
        sides: dict[str, Callable[[], object]] = {"bare": bare, "ours_unix": Client(str(uds), asked["ours"]).ask}
        sides |= {name: Client(where[name], asked[name]).ask for name in where}
        found["p50_us"] = p50_us(sides, seconds)
        rates: dict[str, list[float]] = {name: [] for name in where}
        for _ in range(ROUNDS):
            for name in where:
                rates[name].append(per_second(where[name], asked[name], CLIENTS, seconds / ROUNDS))
    found["per_second_at_64"] = {name: round(median(values)) for name, values in rates.items()}
    return {**found, "ratios": ratios(found["p50_us"], found["per_second_at_64"]), "left_out": left_out}


def bytecode(directory: Path) -> dict[str, str]:
    """The environment of a process that keeps what it compiles, whatever this one does."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(directory / "bytecode")}


def ratios(p50: dict[str, float], rates: dict[str, int]) -> dict[str, float]:
    """Return the ratios of the figures; those of peers that are there."""
    found = {"ours_to_bare_and_echo": p50["ours"] / (p50["bare"] + p50["echo"])} if "echo" in p50 else {}
    found |= {
        f"{name}_to_ours": p50[name] / p50["ours"] for name, peer in PEERS.items() if peer.complete and name in p50
    }
    complete = [rates[name] for name, peer in PEERS.items() if peer.complete and name in rates]
    if complete:
        found["per_second_to_best_complete_server"] = rates["ours"] / max(complete)
    if "granian" in rates:
        found["per_second_to_granian_without_records"] = rates["ours"] / rates["granian"]
    return {name: round(value, 2) for name, value in found.items()}


def encoded(x: np.ndarray[Any, Any]) -> tuple[bytes, int]:
    """A request's body in the binary extension, and the length of its JSON."""
    body, head = oip.encode_request(
        oip.InferRequest(inputs=(oip.TensorValue("input", x),), binary_outputs=oip.ALL), binary=True
    )
    assert head is not None
    return body, head


def request(path: str, body: bytes, head: int) -> bytes:
    """The bytes on the wire."""
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1:8200",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {head}",
        f"Content-Length: {len(body)}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def idle(pid: int, directory: Path) -> dict[str, float]:
    """Proportional set sizes in MB: of the agent with its children, and of a process with runtime and model only.

    At one moment, so that a page of a library that others map, too, counts alike on both sides.
    """
    time.sleep(1.0)
    command = [sys.executable, "-c", LOADED, str(directory / "bare.tflite")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        agent, bare = sum(pss(one) for one in (pid, *children(pid))), pss(process.pid)
        process.kill()
    return {"agent_mb": round(agent, 1), "bare_mb": round(bare, 1), "above_mb": round(agent - bare, 1)}


def children(pid: int) -> list[int]:
    """Of a process, and theirs."""
    mine = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*mine, *(other for one in mine for other in children(one))]


def pss(pid: int) -> float:
    """MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000

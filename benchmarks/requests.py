"""The request path against the bare runtime: how many times longer an answer takes.

`python benchmarks/requests.py` needs nothing but the repository. Keyword spotting (MLPerf Tiny, int8) is measured as
well where `EDGELOOP_DATA` names a folder with `mlperf_tiny/kws_dscnn_int8.tflite`. All that is compared runs in one
process, in turns of a few dozen requests, so that a busy machine slows both: trust the ratios, not the microseconds.
The result goes to `benchmarks/results/requests.json` with a description of the machine.

In process: `LocalModel.infer` over set input, invoke, get output of the same interpreter class, same bytes, one
thread. What the bare set lacks: verified bytes, checked inputs and outputs, records, drawn requests for samples and
sketches, following swaps. With an agent's sockets open these are received; without one they are dropped.

Over HTTP: a real agent process beside other servers with the same runtime on the same bytes, each installed into an
environment of its own in `build/peers` (`EDGELOOP_PEERS`); see `benchmarks/over_http.py` and, for what each leaves out,
`benchmarks/peers/`. `--only in_process|http|stalls` measures a part.

Stalls: the longest that one legal request keeps another client of the local API waiting, and what held connections
cost (`benchmarks/stalls.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from benchmarks.over_http import over_http
from benchmarks.stalls import holders, stalls
from edge_agent.in_process import draws, records
from edge_agent.local import LocalModel, open_model
from edge_agent.update.disk.state import Looked, StateFile
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease, ModelState
from fleet.protocol import selftest
from fleet.protocol.channel import Channel, ModelEntry, Sampling
from fleet.protocol.manifest import Manifest, SelfTest, Tensor, Variant, Verdict, encode_manifest
from fleet.protocol.tensors import datatype_of
from tests.support import models

TURN = 40  # requests of one side before the other's turn
KEYWORDS = "mlperf_tiny/kws_dscnn_int8.tflite"
VECTORS = 6  # of a self-test, about as many as the compiler chooses


class Bare:
    """Set input, invoke, get output."""

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_content=data, num_threads=1)
        self.interpreter.allocate_tensors()
        self.input, self.output = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()[0]

    def __call__(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.interpreter.set_tensor(self.input["index"], x)
        self.interpreter.invoke()
        found: np.ndarray[Any, Any] = self.interpreter.get_tensor(self.output["index"])
        return found


def install(directory: Path, data: bytes, bare: Bare) -> None:
    """A release of the file whose interface is the file's own."""
    specs = [
        Tensor(
            name=name, datatype=datatype_of(np.empty(0, detail["dtype"])), shape=(-1, *map(int, detail["shape"][1:]))
        )
        for name, detail in (("input", bare.input), ("output", bare.output))
    ]
    classes = specs[1].shape[-1]
    vectors = [_vector(bare, example(bare, seed)) for seed in range(VECTORS)]
    verdict = Verdict(
        metric="accuracy",
        value=1.0,
        interval=(0.9, 1.0),
        reference=1.0,
        drop_points=0.0,
        agreement=1.0,
        worst_class_drop=0.0,
        samples=64,
        size_bytes=len(data),
        latency_us_p50=10.0,
        latency_us_p95=20.0,
        latency_ratio=1.0,
    )
    blobs = directory / "blobs"
    variant = Variant(
        name="litert",
        runtime="litert",
        precision="int8",
        placement="edge",
        blob=models.put(blobs, data),
        verdict=verdict,
    )
    manifest = Manifest(
        inputs=(specs[0],),
        outputs=(specs[1],),
        labels=tuple(f"class-{i}" for i in range(classes)),
        variants=(variant,),
        selftest=SelfTest(
            blob=models.put(blobs, selftest.encode_vectors(vectors)), vectors=VECTORS, tolerance={"litert": 0.0}
        ),
    )
    held = HeldRelease(release=1, variant="litert", manifest=Store(directory).put_manifest(encode_manifest(manifest)))
    state = StateFile(directory)
    state.put_model("model", ModelState(state="committed", active=held))
    entry = ModelEntry(release=1, sampling=Sampling(enabled=True))
    state.keep_looked(Looked(channel=Channel(channel="stable", version=1, models={"model": entry})))


def _vector(bare: Bare, x: np.ndarray[Any, Any]) -> selftest.Vector:
    one, answer = selftest.to_array("input", x), selftest.to_array("output", bare(x))
    return selftest.Vector(inputs=(one,), outputs={"litert": (answer,)})


def interleave(sides: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Microseconds of each side's requests, in turns, at least until `seconds` have passed."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    until, clock = time.perf_counter() + seconds, time.perf_counter
    while clock() < until:
        for name, ask in sides.items():
            for _ in range(TURN):
                started = clock()
                ask()
                took[name].append((clock() - started) * 1e6)
    return took


def in_process(data: bytes, seconds: float, *, agent: bool) -> dict[str, Any]:
    """One model, with or without somebody who receives the records."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        bare = Bare(data)
        install(directory, data, bare)
        child = receive(directory) if agent else 0
        with open_model(directory, "model") as model:
            result = compare(bare, model, seconds)
        if child:
            os.kill(child, 9)
            os.waitpid(child, 0)
        return result


def http(data: bytes, seconds: float) -> dict[str, Any]:
    """One model over HTTP."""
    with tempfile.TemporaryDirectory() as folder:
        directory, bare = Path(folder), Bare(data)
        install(directory, data, bare)
        x = example(bare)
        return over_http(directory, data, lambda: bare(x), x, seconds)


def receive(directory: Path) -> int:
    """A process that stands for the agent: it takes records, and drawn requests in their memory files."""
    listeners = []
    for name in (records.SOCKET, draws.SOCKET):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(directory / name))
        listeners.append(listener)
    child = os.fork()
    if not child:
        while True:
            for listener in select.select(listeners, (), ())[0]:
                for file in socket.recv_fds(listener, 1 << 20, 1)[1]:
                    os.pread(file, draws.LIMIT, 0)
                    os.ftruncate(file, 0)
                    os.close(file)
    for listener in listeners:
        listener.close()
    return child


def compare(bare: Bare, model: LocalModel, seconds: float) -> dict[str, Any]:
    """Medians and their ratio; of the same bytes, whose answers are compared first."""
    x = example(bare)
    np.testing.assert_array_equal(model.infer({"input": x}).outputs["output"], bare(x))
    took = interleave(
        {
            "bare": lambda: bare(x),
            "infer": lambda: model.infer({"input": x}),
            "infer_and_confidence": lambda: model.infer({"input": x}).confidence,
        },
        seconds,
    )
    base = median(took["bare"])
    return {
        "p50_us": {name: round(median(values), 1) for name, values in took.items()},
        "mean_us": {name: round(sum(values) / len(values), 1) for name, values in took.items()},
        "ratio": {name: round(median(values) / base, 3) for name, values in took.items() if name != "bare"},
        "requests": len(took["infer"]),
    }


def example(bare: Bare, seed: int = 0) -> np.ndarray[Any, Any]:
    """An input of the model's."""
    shape, dtype = bare.input["shape"], bare.input["dtype"]
    rng = np.random.default_rng(seed)
    found = rng.integers(-128, 128, shape) if dtype == np.int8 else rng.normal(size=shape)
    return np.asarray(found.astype(dtype))


def measure_in_process(files: dict[str, bytes], seconds: float) -> dict[str, Any]:
    """With and without somebody who receives the records."""
    found = {}
    for name, data in files.items():
        for agent in (False, True):
            one = found[f"{name}_{'with' if agent else 'without'}_agent"] = in_process(data, seconds, agent=agent)
            print(name, "with" if agent else "without", "agent:", json.dumps(one), flush=True)
    return {"in_process": found}


def measure_http(files: dict[str, bytes], seconds: float) -> dict[str, Any]:
    """The largest of the models: what a server adds is the same for all."""
    name, data = list(files.items())[-1]
    found = http(data, seconds)
    print(name, "over HTTP:", json.dumps(found, indent=1), flush=True)
    return {"http": {"model": name, "machine": machine(), **found}}


def measure_stalls(_files: dict[str, bytes], _seconds: float) -> dict[str, Any]:
    """Measure the harm that one client can do to another."""
    found = {"stalls": stalls(), "held_connections": holders()}
    print("stalls:", json.dumps(found, indent=1), flush=True)
    return found


PARTS = {"in_process": measure_in_process, "http": measure_http, "stalls": measure_stalls}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each comparison")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "requests.json")
    parser.add_argument("--only", choices=PARTS, help="measure one part; the file keeps its others")
    options = parser.parse_args()
    files = {"tiny": models.litert_bytes("fp32")}
    keywords = Path(os.environ.get("EDGELOOP_DATA", "")) / KEYWORDS
    if keywords.is_file():
        files["keyword_spotting"] = keywords.read_bytes()
    document: dict[str, Any] = {}
    if options.only and options.out.exists():
        document = json.loads(options.out.read_text())
    document.setdefault("machine", machine())
    for part in PARTS if not options.only else (options.only,):
        document.update(PARTS[part](files, options.seconds))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()

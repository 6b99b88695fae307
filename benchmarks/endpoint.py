"""The hub's cloud endpoint against what the same machine can do: uvicorn's TLS echo of the same bytes, and mosec.

`python benchmarks/endpoint.py` needs the hub's extras and `wrk` (`apt-get install wrk`), the load generator: one that
is written in Python is itself the slowest part. Asked is a classifier of 8 × 8 images, as large as the digits example's
teacher (untrained: its answers are not judged here), one row in the binary extension, over TLS with an application's
token; one process serves. The echo is an ASGI application under uvicorn, with httptools and TLS, that reads the body
and sends the answer's bytes. `--mosec` makes a fresh environment, installs mosec there and asks it the same row over
plain HTTP, with dynamic batching and the same ONNX file; it verifies nobody and speaks no inference protocol.

The sides take turns of a few seconds, so that a busy machine slows all: trust the ratios. On a machine whose cores have
other work, the server's own processor time for each request (`cpu_us`) is what says most. The result goes to
`benchmarks/results/endpoint.json` with a description of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import uvicorn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from cloud_hub.app import create_app
from cloud_hub.config import HubConfig
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.opening.server import make_server
from cloud_hub.store.tables import Model
from fleet.protocol import oip
from fleet.protocol.manifest import Tensor, encode_manifest
from tests.support import any_model
from tests.support.hub import make_hub

CLIENTS = 64
MOSEC = """
import os
import numpy as np
import onnxruntime
from mosec import Runtime, Server, Worker

class Digits(Worker):
    def __init__(self):
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def deserialize(self, data):
        return np.frombuffer(data, np.float32).reshape(1, 8, 8)

    def serialize(self, data):
        return data.tobytes()

    def forward(self, rows):
        return list(self.session.run(None, {"x": np.stack(rows)})[0])

server = Server()
server.register_runtime({"/infer": [Runtime(Digits, num=1, max_batch_size=64, max_wait_time=1)]})
server.run()
"""


def teacher() -> bytes:
    """The network of `examples.digits.model.teacher` as ONNX: x (n, 1, 8, 8) float32 to logits (n, 10)."""
    rng = np.random.default_rng(0)
    shapes = {
        "w1": (32, 1, 3, 3),
        "b1": (32,),
        "w2": (64, 32, 3, 3),
        "b2": (64,),
        "w3": (256, 128),
        "b3": (128,),
        "w4": (128, 10),
        "b4": (10,),
    }
    weights = {name: rng.normal(scale=0.1, size=shape).astype(np.float32) for name, shape in shapes.items()}
    pad, pool = {"pads": [1, 1, 1, 1]}, {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        ("Conv", ["x", "w1", "b1"], ["c1"], pad),
        ("Relu", ["c1"], ["r1"], {}),
        ("MaxPool", ["r1"], ["p1"], pool),
        ("Conv", ["p1", "w2", "b2"], ["c2"], pad),
        ("Relu", ["c2"], ["r2"], {}),
        ("MaxPool", ["r2"], ["p2"], pool),
        ("Flatten", ["p2"], ["f"], {}),
        ("Gemm", ["f", "w3", "b3"], ["d"], {}),
        ("Relu", ["d"], ["r3"], {}),
        ("Gemm", ["r3", "w4", "b4"], ["logits"], {}),
    ]
    inputs, outputs = {"x": ("FP32", ["n", 1, 8, 8])}, {"logits": ("FP32", ["n", 10])}
    return any_model.onnx_file(nodes, inputs, outputs, weights)


@contextlib.contextmanager
def process(serve: Callable[..., None], *arguments: Any) -> Iterator[tuple[int, int]]:
    """A process that serves on a free port of loopback: the port and the process."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    child = multiprocessing.get_context("spawn").Process(target=serve, args=(listener, *arguments), daemon=True)
    child.start()
    try:
        yield listener.getsockname()[1], int(child.pid or 0)
    finally:
        child.terminate()
        child.join(5)
        child.kill()
        listener.close()


def serve_hub(listener: socket.socket, directory: Path) -> None:
    """The hub's application as `cloud-hub serve` runs it, without its services."""
    hub = open_hub(HubConfig.load(directory))
    app = create_app(hub)
    config = hub.config
    certificates = {"ssl_certfile": str(config.server_certificate), "ssl_keyfile": str(config.server_key)}
    make_server(app, app.state.inference.shared, log_level="warning", access_log=False, **certificates).run([listener])


def serve_echo(listener: socket.socket, answer: bytes, certificates: dict[str, str]) -> None:
    """Reads the body, sends the answer's bytes."""
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(answer))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    config = uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        ssl_certfile=certificates.get("ssl_certfile"),
        ssl_keyfile=certificates.get("ssl_keyfile"),
    )
    uvicorn.Server(config).run([listener])


def cpu_s(process: int) -> float:
    """Processor time of a process and of its children that are alive."""
    found = 0.0
    for one in (process, *map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        found += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


class Load:
    """wrk with one request, to `process`."""

    def __init__(self, script: Path, url: str, process: int, body: bytes, headers: dict[str, str]) -> None:
        self.url, self.script, self.process = url, script, process
        escaped = "".join(f"\\{byte:03d}" for byte in body)
        lines = ['wrk.method = "POST"', f'wrk.body = "{escaped}"']
        lines += [f'wrk.headers["{key}"] = "{value}"' for key, value in headers.items()]
        self.script.write_text("\n".join(lines) + "\n")

    def wait(self) -> None:
        """Return when the server answers."""
        for _ in range(60):
            with contextlib.suppress(SystemExit):
                if self.run(1, 1)["per_s"] > 0:
                    return
        raise SystemExit(f"{self.url} does not answer")

    def run(self, clients: int, seconds: int) -> dict[str, float]:
        """Requests per second, the median time, and the server's processor time for each, in microseconds."""
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--latency", "-s", str(self.script), self.url]
        began = cpu_s(self.process)
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        spent = cpu_s(self.process) - began
        if "Non-2xx" in text or "Socket errors" in text:
            raise SystemExit(f"{self.url} failed:\n{text}")
        value, unit = re.search(r"50%\s+([0-9.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
        scale = {"us": 1.0, "ms": 1e3, "s": 1e6}[unit]
        return {
            "per_s": float(re.search(r"Requests/sec:\s+([0-9.]+)", text)[1]),  # type: ignore[index]
            "p50_us": float(value) * scale,
            "cpu_us": 1e6 * spent / max(1, int(re.search(r"([0-9]+) requests in", text)[1])),  # type: ignore[index]
        }


def measure(sides: dict[str, Load], seconds: int, rounds: int) -> dict[str, Any]:
    """Of each side the medians over turns, at one client and at many."""
    found: dict[str, dict[str, list[float]]] = {
        name: {"per_s": [], "cpu_us_at_64": [], "p50_us": [], "cpu_us_at_1": []} for name in sides
    }
    for _ in range(rounds):
        for name, side in sides.items():
            many = side.run(CLIENTS, seconds)
            found[name]["per_s"].append(many["per_s"])
            found[name]["cpu_us_at_64"].append(many["cpu_us"])
        for name, side in sides.items():
            one = side.run(1, max(1, seconds // 2))
            found[name]["p50_us"].append(one["p50_us"])
            found[name]["cpu_us_at_1"].append(one["cpu_us"])
    return {name: {key: round(median(values), 1) for key, values in side.items()} for name, side in found.items()}


@contextlib.contextmanager
def mosec(folder: Path, file: Path) -> Iterator[tuple[int, int]]:
    """mosec in an environment of its own."""
    venv.create(folder / "mosec", with_pip=True)
    python = folder / "mosec" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "mosec", "onnxruntime", "numpy"], check=True)
    (folder / "server.py").write_text(MOSEC)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(python), str(folder / "server.py"), "--port", str(port), "--address", "127.0.0.1"]
    child = subprocess.Popen(command, env={**os.environ, "MODEL": str(file)}, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield port, child.pid
    finally:
        child.terminate()
        child.wait(20)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mosec", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "endpoint.json")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        file = teacher()
        made = make_hub(folder, start=time.time())
        token = publish(made, folder, file)
        x = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
        asked = oip.InferRequest(inputs=(oip.TensorValue("x", x),), binary_outputs=oip.ALL)
        body, head = oip.encode_request(asked)
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/octet-stream",
            oip.HEADER: str(head),
        }
        config = made.hub.config
        certificates = {"ssl_certfile": str(config.server_certificate), "ssl_keyfile": str(config.server_key)}
        url = "https://127.0.0.1:{}/v2/models/any/infer"
        sides = {}
        for side, serve, arguments in (
            ("hub", serve_hub, (config.directory,)),
            ("echo", serve_echo, (b"x" * 227, certificates)),
        ):
            port, child = stack.enter_context(process(serve, *arguments))
            sides[side] = Load(folder / f"{side}.lua", url.format(port), child, body, headers)
        if options.mosec:
            (folder / "teacher.onnx").write_bytes(file)
            port, child = stack.enter_context(mosec(folder, folder / "teacher.onnx"))
            url = f"http://127.0.0.1:{port}/infer"
            sides["mosec"] = Load(folder / "mosec.lua", url, child, x.tobytes(), {})
        for load in sides.values():
            load.wait()
        found = measure(sides, options.seconds, options.rounds)
    ratios = {
        "requests_at_64_over_echo": found["hub"]["per_s"] / found["echo"]["per_s"],
        "p50_at_1_over_echo": found["hub"]["p50_us"] / found["echo"]["p50_us"],
        "cpu_of_echo_over_cpu_at_64": found["echo"]["cpu_us_at_64"] / found["hub"]["cpu_us_at_64"],
        "cpu_at_1_over_cpu_of_echo": found["hub"]["cpu_us_at_1"] / found["echo"]["cpu_us_at_1"],
    }
    if "mosec" in found:
        ratios["requests_at_64_over_mosec"] = found["hub"]["per_s"] / found["mosec"]["per_s"]
        ratios["cpu_of_mosec_over_cpu_at_64"] = found["mosec"]["cpu_us_at_64"] / found["hub"]["cpu_us_at_64"]
    document = {
        "machine": machine(),
        "model_bytes": len(file),
        **found,
        "ratios": {key: round(value, 3) for key, value in ratios.items()},
    }
    print(json.dumps(document, indent=2))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")


def publish(made: Any, folder: Path, file: bytes) -> str:
    """Publish the teacher as the model `any`; an application's token."""
    inputs = (Tensor(name="x", datatype="FP32", shape=(-1, 1, 8, 8)),)
    outputs = (Tensor(name="logits", datatype="FP32", shape=(-1, 10)),)
    release = any_model.release(folder / "blobs", inputs, outputs, edge=file, cloud=file)
    with made.hub.session() as session:
        session.add(Model(name="any", created_at=0.0))
    for blob in release.blobs.iterdir():
        made.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    made.hub.publisher.publish_release("any", encode_manifest(release.manifest), actor="benchmark")
    return str(made.token("application", scope="infer:any"))


if __name__ == "__main__":
    main()

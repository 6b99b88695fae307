"""The agent's fallback to servers that are not the hub: real MLServer and KServe processes.

`python benchmarks/fallback.py [--only mlserver,kserve]` installs each in an environment of its own (some hundred MB;
`EDGELOOP_PEERS` says where), starts it with a model that its users would write, and lets an agent whose channel names
it be unsure of every request. What is proved, or the command fails:

    healthy  every unsure request is answered by the server, with the right numbers; in binary or JSON is said
    away     the server is stopped: every request has the local answer, degraded, with its reason
    back     the server is started again on its port: it answers again, once the breaker lets a call through
    another  a model whose outputs have other names never goes out: local, degraded, `cloud-502`

KServe's own client asks agent and hub, too: health, readiness and an answer. The result goes to
`benchmarks/results/fallback.json` with a description of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.http_peers import CODE, Peer, free_port, python_of, running
from benchmarks.machine import machine
from cloud_hub.app import create_app
from edge_agent.serving.endpoint import Endpoint
from edge_agent.serving.engine import Engine
from edge_agent.serving.remote import RemoteServer, RemoteServers
from fleet.protocol import oip
from fleet.protocol.channel import ModelEntry, Remote, Routing
from fleet.protocol.manifest import encode_manifest
from tests.support import models
from tests.support.agent import Agent
from tests.support.hub import make_hub
from tests.support.server import serving

RESULT = Path(__file__).parent / "results" / "fallback.json"
REQUESTS = 50
PATIENCE_S = 60.0  # until a server that is back is asked again
PEERS = {
    "mlserver": Peer(("mlserver",), ("-c", "from mlserver.cli import main; main()", "start", "{folder}"), runtime=()),
    "kserve": Peer(("kserve",), ("kserve_app.py", "--http_port", "{port}", "--enable_grpc", "false"), runtime=()),
}


class Device:
    """An agent whose only cloud is `url`, unsure of every request."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir(parents=True)
        self.agent = Agent(folder)
        self.remotes = RemoteServers({}, lambda up, down: None)
        agent, routing = self.agent, Routing(remote=Remote(url=url), deadline_ms=5_000)
        endpoint = Endpoint(agent.cloud, self.remotes.server)
        self.engine = Engine(agent.slots, agent.policies, endpoint, agent.recorder)
        agent.follow(ModelEntry(release=1, routing=routing))
        self.release = models.release(agent.blobs, data=b"fake", threshold=2.0)

    async def ask(self, x: np.ndarray) -> oip.InferResponse:
        """One request."""
        request = oip.InferRequest(inputs=(oip.TensorValue("input", x),))
        return await self.engine.infer("tiny", "", request)

    async def answers(self, count: int) -> list[dict[str, Any]]:
        """Requests one after the other: what each answer says of itself, its time, and whether its numbers hold."""
        found = []
        for number in range(count):
            x, began = models.inputs(3, seed=number), time.perf_counter()
            answer = await self.ask(x)
            took = time.perf_counter() - began
            right = np.allclose(answer.outputs[0].array, models.answer(x), atol=1e-5)
            found.append({**answer.parameters, "took_s": took, "right": bool(right)})
        return found

    def close(self) -> None:
        """Let go."""
        self.remotes.close()
        self.agent.database.close()


def check(holds: bool, what: str, found: Any) -> None:
    """Fail loudly."""
    if not holds:
        raise SystemExit(f"fallback: {what}: {found}")


async def healthy(device: Device) -> dict[str, Any]:
    """All by the server."""
    await device.agent.slots.activate(device.release, None, None)
    found = await device.answers(REQUESTS)
    check(all(one["served_by"] == "cloud" and one["right"] for one in found), "not all by the server", found[:3])
    (server,) = device.remotes._servers.values()
    assert isinstance(server, RemoteServer)
    return {
        "answers": len(found),
        "form": "binary" if server._binary else "json",
        "p50_ms": round(float(np.median([one["took_s"] for one in found])) * 1e3, 2),
    }


async def away(device: Device) -> dict[str, Any]:
    """All local, each with the reason."""
    found = await device.answers(REQUESTS)
    held = all(one["served_by"] == "edge" and one["degraded"] and one["right"] for one in found)
    check(held, "not all by the device", found[:3])
    return {"answers": len(found), "reasons": sorted({one["fallback_reason"] for one in found})}


async def back(device: Device) -> dict[str, Any]:
    """By the server again."""
    began = time.monotonic()
    while (await device.answers(1))[0]["served_by"] != "cloud":
        check(time.monotonic() - began < PATIENCE_S, "the server is not asked again", "")
        await asyncio.sleep(0.1)
    return {"after_s": round(time.monotonic() - began, 1)}


async def another(device: Device) -> dict[str, Any]:
    """Local, since the answer is not the model's."""
    await device.agent.slots.activate(device.release, None, None)
    found = await device.answers(REQUESTS)
    held = all(one["served_by"] == "edge" and one["degraded"] and one["right"] for one in found)
    check(held and found[0]["fallback_reason"] == "cloud-502", "another model's answer", found[:3])
    return {"answers": len(found), "reasons": sorted({one["fallback_reason"] for one in found})}


def environment(folder: Path, port: int, output: str) -> dict[str, str]:
    """Return the environment that a server is started with. MLServer reads a folder and takes further ports."""
    linear = {"weights": models.WEIGHTS.tolist(), "bias": models.BIAS.tolist()}
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({**ports, "host": "127.0.0.1", "parallel_workers": 0}))
    model = {"name": "tiny", "implementation": "mlserver_model.Linear"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    return {"PEER_LINEAR": json.dumps(linear), "PEER_OUTPUT": output, "PEER_FOLDER": str(folder)}


def prove(name: str, folder: Path) -> dict[str, Any]:
    """One server through all of it, on one port and in one event loop."""
    peer, port = PEERS[name], free_port()
    url = f"http://127.0.0.1:{port}"
    result: dict[str, Any] = {"version": version(name, peer)}

    def server(output: str) -> Any:
        return running(name, environment(folder, port, output), peer, port)

    with asyncio.Runner() as loop:
        device = Device(folder / "device", url)
        with server("logits"):
            loop.run(until_ready(url))
            result["healthy"] = loop.run(healthy(device))
        result["away"] = loop.run(away(device))
        with server("logits"):
            result["back"] = loop.run(back(device))
        device.close()
        device = Device(folder / "other", url)
        with server("scores"):
            loop.run(until_ready(url))
            result["another"] = loop.run(another(device))
        device.close()
    return result


async def until_ready(url: str) -> None:
    """Wait for the model behind a port that is listened on already."""
    began = time.monotonic()
    while True:
        try:
            urllib3.request("GET", f"{url}/v2/models/tiny/ready", timeout=5, retries=False)
            return
        except urllib3.exceptions.HTTPError:
            check(time.monotonic() - began < PATIENCE_S, "no model is ready", url)
            await asyncio.sleep(0.1)


def clients(folder: Path) -> dict[str, Any]:
    """KServe's client at an agent and at a hub."""
    peer = PEERS["kserve"]
    found: dict[str, Any] = {}
    python = python_of("kserve", peer.packages, peer.runtime)

    def ask(address: str, token: str) -> Any:
        command: list[str | Path] = [python, CODE / "kserve_client.py", f"http://{address}", token]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        check(done.returncode == 0, "KServe's client", done.stderr[-2000:])
        said = json.loads(done.stdout.splitlines()[-1])
        right = np.allclose(said.pop("answer"), models.answer(np.ones((2, 4), np.float32)).ravel(), atol=1e-5)
        check(right and all(said.values()), f"KServe's client at {address}", said)
        return {**said, "answer": bool(right)}

    (folder / "agent").mkdir()
    agent = Agent(folder / "agent")
    agent.follow(ModelEntry(release=1))
    asyncio.run(agent.slots.activate(models.release(agent.blobs, data=b"fake"), None, None))
    with serving(**agent.listener) as (address, _):
        found["agent"] = ask(address, "")
    agent.database.close()
    hub = make_hub(folder / "hub")
    hub.model("tiny")
    made = models.release(folder / "blobs", cloud=True)
    for blob in made.blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    hub.hub.publisher.publish_release("tiny", encode_manifest(made.manifest), actor="benchmark")
    with serving(create_app(hub.hub)) as (address, _):
        found["hub"] = ask(address, hub.token("application", scope="infer:tiny"))
    return found


def version(name: str, peer: Peer) -> str:
    """Of the package that is installed."""
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    command: list[str | Path] = [python_of(name, peer.packages, peer.runtime), "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Prove what is asked for, and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(PEERS), help="servers, by commas")
    names = parser.parse_args().only.split(",")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).mkdir()
            found[name] = prove(name, Path(folder) / name)
            print(name, json.dumps(found[name]), flush=True)
        if "kserve" in names:
            found["kserve-client"] = clients(Path(folder))
            print("kserve-client", json.dumps(found["kserve-client"]), flush=True)
    RESULT.write_text(json.dumps({"machine": machine(), "servers": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""A model that gives back what it takes, one input for every datatype, on an agent and on a hub."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cloud_hub.app import create_app
from edge_agent import runtimes
from edge_agent.ports import InstalledRelease
from edge_agent.serving.rpc import AgentInference
from fleet.protocol.channel import Channel, ModelEntry
from fleet.protocol.manifest import encode_manifest
from fleet.protocol.tensors import DTYPES
from fleet.rpc.port import Bounds
from fleet.rpc.server import RpcServer
from fleet.runtimes.cost import BODY_LIMIT
from fleet.serving import hot_protocol
from tests.support import any_model
from tests.support.agent import Agent
from tests.support.hub import make_hub
from tests.support.server import answering, serving

CALLS = 16
INPUTS = {f"in_{kind.lower()}": (kind, ["n", 2]) for kind in DTYPES}
OUTPUTS = {f"out_{kind.lower()}": (kind, ["n", 2]) for kind in DTYPES}


class Door(NamedTuple):
    """A server that answers for the model `any`; `headers` are what its callers send, `other` those of a caller who
    may ask nothing. `rpc` is where it answers gRPC."""

    name: str
    address: str
    rpc: str
    headers: dict[str, str]
    other: dict[str, str] | None


def example(kind: str) -> np.ndarray:
    """(2, 2) with the ends of the datatype's range; text with what is not UTF-8's first choice."""
    dtype = DTYPES[kind]
    if kind == "BYTES":
        values = np.empty(4, object)
        values[:] = [b"a", "schön".encode(), b"", b"x" * 300]
        return values.reshape(2, 2)
    if kind == "BOOL":
        return np.array([[True, False], [False, True]])
    ends = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([[ends.min, 0], [1, ends.max]], dtype)


def made(blobs: Path) -> InstalledRelease:
    """The release: one file for edge and cloud."""
    nodes = [("Identity", [one], [other], {}) for one, other in zip(INPUTS, OUTPUTS, strict=True)]
    file = any_model.onnx_file(nodes, INPUTS, OUTPUTS)
    inputs, outputs = any_model.tensors(INPUTS), any_model.tensors(OUTPUTS)
    return any_model.release(blobs, inputs, outputs, edge=file, cloud=file)


@contextlib.contextmanager
def agent_door(folder: Path) -> Iterator[Door]:
    """An agent that serves the model, and whose channel names `absent` beside it."""
    release = made(folder / "blobs")
    agent = Agent(folder / "agent", runtime=runtimes.for_variant(release.variant))  # type: ignore[arg-type]
    models = {"any": ModelEntry(release=1), "absent": ModelEntry(release=1)}
    agent.policies.apply(Channel(channel="stable", version=1, models=models))
    asyncio.run(agent.slots.activate(release, None, None))
    inference = AgentInference(agent.engine, agent.app.about, agent.shared.budget)
    server = RpcServer(inference, "127.0.0.1:0", message_limit=BODY_LIMIT, bounds=Bounds(calls=CALLS))
    with serving(**agent.listener) as (address, loop), answering(server, loop) as rpc:
        yield Door("agent", address, rpc, {}, None)
    agent.database.close()


@contextlib.contextmanager
def hub_door(folder: Path) -> Iterator[Door]:
    """A hub that serves the model, and another one that its caller may not ask."""
    hub = make_hub(folder / "hub")
    for name in ("any", "others"):
        release = made(folder / "blobs")
        hub.model(name)
        for blob in release.blobs.iterdir():
            with contextlib.suppress(Exception):
                hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
        hub.hub.publisher.publish_release(name, encode_manifest(release.manifest), actor="test")
    token, stranger = hub.token("application", scope="infer:any"), hub.token("mirror")
    app = create_app(hub.hub)
    inference = app.state.inference
    server = RpcServer(inference.rpc, "127.0.0.1:0", message_limit=BODY_LIMIT, bounds=Bounds(calls=CALLS))
    with serving(app, http=hot_protocol(inference.shared)) as (address, loop), answering(server, loop) as rpc:
        yield Door("hub", address, rpc, hub.auth(token), hub.auth(stranger))
    app.state.inference.close()

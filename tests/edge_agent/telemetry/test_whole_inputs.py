"""An input without a batch is one sample: drift is watched on the whole of it, not on its first row."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec.structs import replace

from edge_agent import runtimes
from edge_agent.ports import InstalledRelease
from fleet.protocol import drift_encoder
from fleet.protocol.channel import ModelEntry
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.manifest import Blob
from fleet.protocol.telemetry import Window
from tests.support import models
from tests.support.agent import Agent

PAIRS = models.inputs(64).reshape(32, 2, 4)


def of_pairs(blobs: Path) -> InstalledRelease:
    """The tiny classifier as a model that takes exactly two rows, which are one sample."""
    made = models.release(blobs)
    encoder = drift_encoder.fit_encoder(PAIRS, tensor="input", dims=4, features=64)
    data = drift_encoder.encode_encoder(encoder)
    old = made.manifest
    assert old.sketch is not None
    blob = Blob(sha256=models.put(blobs, data).sha256, size=len(data))
    inputs, outputs = (
        tuple(replace(tensor, shape=(2, *tensor.shape[1:])) for tensor in tensors)
        for tensors in (old.inputs, old.outputs)
    )
    watched = replace(old.sketch, sketch_id=drift_encoder.sketch_id(encoder), encoder=blob)
    return replace(made, manifest=replace(old, inputs=inputs, outputs=outputs, sketch=watched))


def test_a_whole_input_is_sketched_as_one_sample(tmp_path: Path) -> None:
    agent = Agent(tmp_path, runtime=runtimes.named("onnxruntime"))  # type: ignore[arg-type]

    async def scenario() -> None:
        agent.follow(ModelEntry(release=1))
        await agent.slots.activate(of_pairs(agent.blobs), None, None)
        for pair in PAIRS[:3]:
            await agent.ask(pair)
        await agent.writer.flush()

    asyncio.run(scenario())
    (window,) = [decode_msgpack(r.body, Window, limit=1 << 20) for r in agent.spool.after(0, 100) if r.kind == "window"]
    assert window.counters["requests"] == 3
    assert window.sketch is not None and window.sketch.count == 3

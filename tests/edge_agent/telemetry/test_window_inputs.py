"""Windows say what their inputs held: feature by feature, with NaN that was refused, bounded, for every model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent.in_process.records import LocalRecord
from edge_agent.telemetry.windows import Builder, Key
from fleet.protocol.channel import ModelEntry, Routing
from fleet.protocol.codec import decode_msgpack, encode_msgpack
from fleet.protocol.errors import RefusalError
from fleet.protocol.figures import FINITE, MEAN, check_summaries, figures_of
from fleet.protocol.manifest import Tensor
from fleet.protocol.messages import TELEMETRY_LIMIT
from fleet.protocol.telemetry import Window
from tests.support import models
from tests.support.agent import Agent


def run(directory: Path, scenario, **changes) -> Window:
    async def whole() -> Agent:
        agent = Agent(directory)
        agent.follow(ModelEntry(release=1, routing=Routing(cloud=False)))
        made = models.release(agent.blobs)
        await agent.slots.activate(replace(made, manifest=replace(made.manifest, **changes)), None, None)
        await scenario(agent)
        await agent.writer.flush()
        return agent

    agent = asyncio.run(whole())
    (record,) = [record for record in agent.spool.after(0, 10) if record.kind == "window"]
    window: Window = decode_msgpack(record.body, Window, limit=TELEMETRY_LIMIT)
    check_summaries(window.inputs)
    return window


@pytest.mark.parametrize("sketched", [True, False])
def test_a_window_tells_each_feature_and_how_many_rows_are_outlying(tmp_path, sketched) -> None:
    x = models.inputs(60)
    x[:12] *= 30.0

    async def scenario(agent: Agent) -> None:
        for row in x:
            await agent.ask(row[None])

    window = run(tmp_path, scenario, **({} if sketched else {"sketch": None}))
    (found,) = window.inputs
    assert (found.name, found.rows, found.nan, found.refused) == ("input", 60, 0, {})
    assert figures_of(found)[:, MEAN] == pytest.approx(x.mean(axis=0), abs=1e-5)
    assert window.outlying == (12 if sketched else -1)


def test_nan_that_was_refused_is_told_where_it_was(tmp_path) -> None:
    async def scenario(agent: Agent) -> None:
        for number, row in enumerate(models.inputs(30)):
            if number % 3 == 0:
                row[2] = np.nan
                with pytest.raises(RefusalError):
                    await agent.ask(row[None])
            else:
                await agent.ask(row[None])
        said = LocalRecord(model="tiny", release=1, variant="onnx-fp32", latency_s=0.1, refused="value")
        agent.recorder.local(replace(said, tensor="input", place=10**9))

    window = run(tmp_path, scenario)
    (found,) = window.inputs
    assert found.refused == {"2": 10, "": 1} and window.refusals == {"value": 11} and found.rows == 20


def test_nan_that_a_model_means_is_counted_in_the_rows(tmp_path) -> None:
    async def scenario(agent: Agent) -> None:
        x = models.inputs(10)
        x[:4, 1] = np.nan
        x[9, 0] = np.inf
        for row in x:
            await agent.ask(row[None])

    loose = (Tensor(name="input", datatype="FP32", shape=(-1, 4), finite=False),)
    outputs = (Tensor(name="logits", datatype="FP32", shape=(-1, 3), finite=False),)
    (found,) = run(tmp_path, scenario, inputs=loose, outputs=outputs).inputs
    assert (found.nan, found.infinite) == (4, 1)
    assert figures_of(found)[:, FINITE] == pytest.approx([0.9, 0.6, 1.0, 1.0])


def test_kilobytes_whatever_the_inputs() -> None:
    builder = Builder(Key("m", 1, "v", None), 0.0, 0, None)
    tensors = tuple(Tensor(name=f"a{n}", datatype="FP32", shape=(-1, 40)) for n in range(30))
    builder.watch(tensors, None)
    rows = {tensor.name: np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32) for tensor in tensors}
    builder.request(0.001, ())
    builder.draw(rows, np.random.default_rng(1).random)
    assert len(encode_msgpack(builder.close(1.0))) < 4096

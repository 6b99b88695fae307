"""Raw and ready tensors: what the agent does with either, and what sketches, samples and audits see of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent import CAPABILITIES, runtimes
from edge_agent.local import open_model
from edge_agent.ports import InstalledRelease
from edge_agent.update.disk.state import StateFile
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease, ModelState
from fleet.protocol.channel import Audit, ModelEntry, Routing, Sampling
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import RefusalError
from fleet.protocol.manifest import encode_manifest
from fleet.protocol.messages import SampleBatch
from fleet.protocol.preprocessing import capability
from fleet.protocol.selftest import from_array
from fleet.protocol.steps import KINDS, Normalise
from fleet.protocol.telemetry import Window
from tests.support import models
from tests.support.agent import Agent

X = models.inputs(6)
EVERYTHING = ModelEntry(
    release=1, audit=Audit(auditor=7, share_ppm=1_000_000), sampling=Sampling(enabled=True, random_ppm=1_000_000)
)


def normalised(blobs: Path, *, mean: float = 3.0, number: int = 1, **more: Any) -> InstalledRelease:
    """The tiny classifier of (x - mean) / 2."""
    made = models.release(blobs, number=number, **more)
    return replace(
        made, manifest=replace(made.manifest, preprocess=(Normalise(input="input", mean=(mean,), std=(2,)),))
    )


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path, runtime=runtimes.named("onnxruntime"))  # type: ignore[arg-type]


def served(agent: Agent, *asked: Any, entry: ModelEntry = EVERYTHING) -> list[Any]:
    """Answers or refusals of requests (x, parameters), and then the window, of a release with steps."""

    async def scenario() -> list[Any]:
        agent.follow(entry)
        await agent.slots.activate(normalised(agent.blobs), None, None)
        found: list[Any] = []
        async with agent.auditing():
            for x, parameters in asked:
                try:
                    found.append(await agent.ask(x, **parameters))
                except RefusalError as error:
                    found.append(error)
        await agent.writer.flush()
        return found

    answers = asyncio.run(scenario())
    (window,) = [decode_msgpack(r.body, Window, limit=1 << 20) for r in agent.spool.after(0, 100) if r.kind == "window"]
    return [*answers, window]


def digest_of(agent: Agent) -> str:
    pipeline = normalised(agent.blobs).manifest.pipeline
    assert pipeline is not None
    return pipeline.digest


def test_the_agent_says_that_it_knows_every_step() -> None:
    assert {capability(kind) for kind in KINDS} <= set(CAPABILITIES)


def test_raw_and_ready_tensors_get_the_same_bits(agent: Agent) -> None:
    ready = (X - np.float32(3)) / np.float32(2)
    raw, again, window = served(agent, (X, {}), (ready, {"ready": digest_of(agent)}))
    assert raw.outputs[0].array.tobytes() == again.outputs[0].array.tobytes()
    np.testing.assert_allclose(raw.outputs[0].array, models.answer(ready), rtol=1e-6)
    assert (window.counters["requests"], window.counters["ready"]) == (2, 1)


def test_sketches_samples_and_audits_see_what_the_application_sent(agent: Agent) -> None:
    heard = []
    agent.cloud.outputs = lambda x: heard.append(x) or {"logits": models.answer(x)}
    _, window = served(agent, (X[:1], {}))
    _, body = agent.samples.batch()
    (sample,) = decode_msgpack(body, SampleBatch, limit=1 << 20).samples
    np.testing.assert_array_equal(from_array(sample.inputs[0]), X[:1])
    np.testing.assert_array_equal(heard[0], X[:1])
    assert window.sketch.count == 1 and window.counters["audited"] == 1


def test_nothing_is_sketched_sampled_or_audited_of_ready_tensors(agent: Agent) -> None:
    _, window = served(agent, (X[:1], {"ready": digest_of(agent)}))
    assert window.sketch is None or window.sketch.count == 0
    assert agent.samples.batch()[0] == [] and agent.cloud.asked == []
    assert window.counters["edge"] == window.counters["ready"] == 1 and sum(window.classes) == 1


def test_tensors_that_other_steps_made_are_refused(agent: Agent) -> None:
    refused, also, window = served(agent, (X, {"ready": "0123456789abcdef"}), (X, {"ready": True}))
    assert refused.word == also.word == "version"
    assert "the release's are" in str(refused) and digest_of(agent) in str(refused)
    assert window.counters["refused"] == 2 and "newly_refused" not in window.counters


def test_a_ready_request_is_deferred_as_one(agent: Agent) -> None:
    asked = []
    infer = agent.cloud.infer

    async def heard(model: str, version: int | None, request: Any, timeout_s: float) -> Any:
        asked.append(request)
        return await infer(model, version, request, timeout_s)

    agent.cloud.infer = heard  # type: ignore[method-assign]
    entry = ModelEntry(release=1, routing=Routing(threshold=1.0))
    answer, _ = served(agent, (X[:1], {"ready": digest_of(agent), "route": "cloud"}), entry=entry)
    assert answer.parameters["served_by"] == "cloud"
    assert asked[0].parameters == {"ready": digest_of(agent)}


def test_a_release_without_steps_takes_nothing_that_is_ready(agent: Agent) -> None:
    async def scenario() -> None:
        agent.follow(ModelEntry(release=1))
        await agent.slots.activate(models.release(agent.blobs), None, None)
        with pytest.raises(RefusalError, match="has no preprocessing, so nothing can be ready"):
            await agent.ask(X, ready="0123456789abcdef")

    asyncio.run(scenario())


def test_an_application_in_process_sends_either(tmp_path: Path) -> None:
    made = normalised(tmp_path / "blobs")
    digest = Store(tmp_path).put_manifest(encode_manifest(made.manifest))
    held = HeldRelease(release=1, variant=made.variant.name, manifest=digest)
    StateFile(tmp_path).put_model("tiny", ModelState(state="committed", active=held))
    with open_model(tmp_path, "tiny") as model:
        steps = model.steps
        assert steps is not None
        raw = model.infer({"input": X})
        ready = model.infer(steps.run({"input": X}), ready=steps.digest)
        assert raw.outputs["logits"].tobytes() == ready.outputs["logits"].tobytes()
        assert raw.classes == ready.classes
        assert raw.names == tuple(models.LABELS[number] for number in raw.classes)
        with pytest.raises(RefusalError, match="made ready by steps"):
            model.infer({"input": X}, ready="other")

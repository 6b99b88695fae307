"""Requests that a release refuses: held against it where the release before took them, shown in any case."""

from __future__ import annotations

import asyncio
import http.client
import json

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent.errors import NotFoundError
from edge_agent.in_process.records import LocalRecord
from edge_agent.local import open_model
from edge_agent.update.disk.state import StateFile
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease, ModelState
from fleet.protocol import oip
from fleet.protocol.channel import ModelEntry, RolloutRef, Telemetry
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import REFUSALS, MalformedError, RefusalError
from fleet.protocol.interface import interface_of
from fleet.protocol.manifest import Tensor, encode_manifest
from fleet.protocol.telemetry import Window
from fleet.runtimes.cost import BODY_LIMIT
from tests.support import models
from tests.support.agent import Agent
from tests.support.server import serving

X = np.array([[5, 0, 0, 0]], np.float32)
ROLLOUT = RolloutRef(id="r1", attempt=3, release=2, from_release=1, share_ppm=500_000, salt="s")


@pytest.fixture
def agent(tmp_path):
    agent = Agent(tmp_path)
    agent.follow(ModelEntry(release=1), telemetry=Telemetry(window_s=1e9, window_requests=10**9))
    return agent


def release(agent, number, **tensor):
    """A release whose input is as `tensor` says; by default the classifier's `input` FP32 [-1, 4]."""
    made = models.release(agent.blobs, number=number, data=b"fake" + bytes([number]))
    spec = replace(made.manifest.inputs[0], **tensor)
    return replace(made, manifest=replace(made.manifest, inputs=(spec,), sketch=None))


def renamed(agent):
    """Release 2 calls its input `x`; release 1, which served before, called it `input`."""
    former = interface_of(release(agent, 1).manifest)
    return replace(release(agent, 2, name="x"), former=former)


def ask(agent, values, **more):
    request = oip.InferRequest(inputs=tuple(oip.TensorValue(*value) for value in values.items()), **more)
    return agent.engine.infer("tiny", "", request)


def windows(agent) -> list[Window]:
    return [decode_msgpack(r.body, Window, limit=1 << 20) for r in agent.spool.after(0, 100) if r.kind == "window"]


def asks(agent, made, *requests, pairing=None):
    """Serve `made` and send the requests, which it refuses; its health and window then."""

    async def scenario():
        await agent.slots.activate(made, None, pairing)
        for request in requests:
            with pytest.raises(MalformedError):
                await request()
        await agent.writer.flush()

    asyncio.run(scenario())
    (window,) = windows(agent)
    return agent.slots.health("tiny"), window


def test_what_the_release_before_took_is_held_against_the_new_one(agent):
    health, window = asks(agent, renamed(agent), *[lambda: ask(agent, {"input": X})] * 3, pairing=ROLLOUT)
    assert (health.requests, health.failures, health.newly_refused) == (0, 0, 3)
    assert health.refusal == "input 'x' is missing"
    counters = {name: window.counters[name] for name in ("requests", "failed", "refused", "newly_refused")}
    assert set(counters.values()) == {3} and window.refusals == {"name": 3}
    assert (window.rollout, window.attempt) == ("r1", 3)


@pytest.mark.parametrize(
    ("values", "more", "word"),
    [
        ({"rubbish": X}, {}, "name"),
        ({"input": X, "more": X}, {}, "name"),
        ({"input": X.astype(np.float64)}, {}, "datatype"),
        ({"input": X[0]}, {}, "shape"),
        ({"input": X * np.nan}, {}, "value"),
        ({"input": X}, {"outputs": ("nonsense",)}, "output"),
        ({"": np.zeros(7, np.uint8)}, {}, "shape"),
    ],
)
def test_rubbish_that_both_refuse_is_shown_and_says_nothing_about_the_release(agent, values, more, word):
    made = replace(release(agent, 2), former=interface_of(release(agent, 1).manifest))
    health, window = asks(agent, made, lambda: ask(agent, values, **more))
    assert (health.requests, health.newly_refused) == (0, 0)
    assert (window.counters["failed"], window.counters["refused"], window.refusals) == (1, 1, {word: 1})
    assert "newly_refused" not in window.counters and word in REFUSALS
    assert b'edge_refused_requests_total{model="tiny",reason="%s"} 1' % word.encode() in agent.metrics.render()


def test_an_output_that_the_new_release_lost_is_held_against_it(agent):
    made = release(agent, 2)
    made = replace(made, former=interface_of(made.manifest))
    outputs = (Tensor(name="scores", datatype="FP32", shape=(-1, 3)),)
    made = replace(made, manifest=replace(made.manifest, outputs=outputs))
    health, window = asks(agent, made, lambda: ask(agent, {"input": X}, outputs=("logits",)))
    assert (health.newly_refused, window.refusals) == (1, {"output": 1})


def test_without_a_release_before_nothing_is_held_against_the_first(agent):
    health, window = asks(agent, release(agent, 1), lambda: ask(agent, {"x": X}))
    assert (health.newly_refused, window.counters["refused"]) == (0, 1)


def test_going_back_is_judged_by_what_served_before_it_then(agent):
    async def scenario():
        one, two = release(agent, 1), renamed(agent)
        await agent.slots.activate(one, None, None)
        await agent.slots.activate(two, one, ROLLOUT)
        await agent.slots.activate(replace(one, former=None), None, None)
        with pytest.raises(RefusalError):
            await ask(agent, {"x": X})
        return agent.slots.health("tiny")

    assert asyncio.run(scenario()).newly_refused == 0


def test_a_batch_that_no_model_need_take_is_refused_by_name(agent):
    async def fails():
        agent.cloud.cut()
        agent.slots.slot("tiny").active._model.run = lambda inputs: 1 / 0
        return await ask(agent, {"input": np.zeros((0, 4), np.float32)})

    health, window = asks(agent, replace(release(agent, 2), former=interface_of(release(agent, 1).manifest)), fails)
    assert (health.requests, health.newly_refused, window.refusals) == (0, 0, {"batch": 1})


def test_a_version_that_is_not_here_is_an_answer_that_the_application_did_not_get(agent):
    async def scenario():
        await agent.slots.activate(release(agent, 2), None, None)
        with pytest.raises(NotFoundError):
            await agent.ask(X, "1")
        await agent.writer.flush()

    asyncio.run(scenario())
    assert windows(agent)[0].refusals == {"version": 1}


def test_a_failure_that_the_cloud_covered_is_no_request_without_an_answer(agent):
    async def scenario():
        await agent.slots.activate(models.release(agent.blobs, number=1, data=b"failing"), None, None)
        covered = await agent.ask(X)
        await agent.writer.flush()
        return covered

    assert asyncio.run(scenario()).parameters["served_by"] == "cloud"
    counters = windows(agent)[0].counters
    assert (counters["local_failed"], counters.get("failed", 0)) == (1, 0)


def test_a_caller_may_keep_a_refused_request_out_of_the_records(agent):
    async def scenario():
        await agent.slots.activate(renamed(agent), None, None)
        with pytest.raises(RefusalError):
            await ask(agent, {"input": X}, parameters={"observe": False})
        await agent.writer.flush()
        return agent.slots.health("tiny")

    assert asyncio.run(scenario()).newly_refused == 1  # probation counts it, as it counts every request
    assert windows(agent) == []


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(
    ("body", "headers", "status", "word"),
    [
        (b"no json", {}, 400, "body"),
        (b'{"inputs": []}', {}, 400, "body"),
        (b"", {"Content-Length": str(BODY_LIMIT + 1)}, 413, "size"),
    ],
)
def test_a_body_that_cannot_be_read_counts_for_the_model_that_it_was_sent_to(agent, local, body, headers, status, word):
    if local:
        asyncio.run(agent.slots.activate(release(agent, 2), None, None))
    with serving(**agent.listener) as (address, _):
        for model in ("tiny", "unheard-of"):
            connection = http.client.HTTPConnection(address, timeout=60)
            connection.request("POST", f"/v2/models/{model}/infer", body, headers)
            answer = connection.getresponse()
            assert answer.status == status and json.loads(answer.read())["error"]
            connection.close()
    asyncio.run(agent.writer.flush())
    (window,) = windows(agent)
    assert (window.model, window.release, window.refusals) == ("tiny", 2 if local else 0, {word: 1})


def install(directory, number, name):
    """Put a release into the store whose input is called `name`; what `state.json` holds of it."""
    made = models.release(directory / "blobs", number=number)
    spec = replace(made.manifest.inputs[0], name=name)
    digest = Store(directory).put_manifest(encode_manifest(replace(made.manifest, inputs=(spec,))))
    return HeldRelease(release=number, variant=made.variant.name, manifest=digest)


@pytest.mark.parametrize(("sent", "newly"), [("input", True), ("rubbish", False)])
def test_in_process_it_is_the_same(agent, tmp_path, monkeypatch, sent, newly):
    one, two = install(tmp_path, 1, "input"), install(tmp_path, 2, "x")
    StateFile(tmp_path).put_model("tiny", ModelState(state="committed", active=two, previous=one))
    model, told = open_model(tmp_path, "tiny"), []
    monkeypatch.setattr(model._outbox, "put", lambda entry, soon: told.append(entry.record()))
    with pytest.raises(RefusalError):
        model.infer({sent: X})
    model.close()
    (record,) = told
    assert (record.refused, record.newly, record.detail) == ("name", newly, "input 'x' is missing")

    made = Store(tmp_path).open("tiny", two)
    asyncio.run(agent.slots.activate(made, None, None))
    agent.recorder.local(record)
    asyncio.run(agent.writer.flush())
    health, (window,) = agent.slots.health("tiny"), windows(agent)
    assert (health.requests, health.newly_refused) == (0, int(newly))
    counters = window.counters
    assert (counters["local"], counters["failed"], counters["refused"]) == (1, 1, 1)
    assert counters.get("newly_refused", 0) == int(newly) and window.refusals == {"name": 1}


def test_a_process_that_makes_words_up_makes_no_new_ones_on_the_wire(agent):
    asyncio.run(agent.slots.activate(release(agent, 2), None, None))
    for number in range(3):
        agent.recorder.local(
            LocalRecord(model="tiny", release=2, variant="onnx-fp32", latency_s=0.0, refused=f"made-up-{number}")
        )
    asyncio.run(agent.writer.flush())
    assert windows(agent)[0].refusals == {"other": 3}

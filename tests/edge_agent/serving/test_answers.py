"""Outputs that are no answer: NaN and infinity from anybody, and a cloud that answers as another model would."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from edge_agent.errors import InferenceError
from edge_agent.local import open_model
from edge_agent.serving.answers import answers_of, checked
from edge_agent.serving.cloud import CloudError
from edge_agent.update.disk.state import StateFile
from edge_agent.update.rules.model_state import ModelState
from fleet.protocol import oip
from fleet.protocol.asking import READY
from fleet.protocol.channel import Audit, ModelEntry, RolloutRef
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Tensor
from fleet.protocol.telemetry import Window
from tests.support import models
from tests.support.agent import Agent
from tests.support.models import answer

SURE = np.array([[5, 0, 0, 0]], np.float32)
UNSURE = np.zeros((1, 4), np.float32)
NAN = np.array([[0, np.nan, 0, 0]], np.float32)
ROLLOUT = RolloutRef(id="r1", attempt=1, release=2, from_release=1, share_ppm=500_000, salt="s")


@pytest.fixture
def agent(tmp_path):
    return Agent(tmp_path)


def release(agent, number=1, data=b"fake", *, finite=True, **more):
    made = models.release(agent.blobs, number=number, data=data + bytes([number]), threshold=0.6, **more)
    if finite:
        return made
    inputs, outputs = (
        tuple(msgspec.structs.replace(tensor, finite=False) for tensor in tensors)
        for tensors in (made.manifest.inputs, made.manifest.outputs)
    )
    return msgspec.structs.replace(
        made, manifest=msgspec.structs.replace(made.manifest, inputs=inputs, outputs=outputs)
    )


def asks(agent, x, made):
    async def scenario():
        await agent.slots.activate(made, None, None)
        return await agent.ask(x)

    return asyncio.run(scenario())


def asking(x, *outputs):
    return oip.InferRequest(inputs=(oip.TensorValue("input", x),), outputs=outputs)


def windows(agent) -> list[Window]:
    return [decode_msgpack(r.body, Window, limit=1 << 20) for r in agent.spool.after(0, 100) if r.kind == "window"]


def test_an_input_that_is_no_number_is_the_callers_mistake(agent):
    with pytest.raises(MalformedError, match=r"input 'input' is NaN at \[0, 1\]"):
        asks(agent, NAN, release(agent))
    health = agent.slots.health("tiny")
    assert (health.requests, health.failures, agent.cloud.asked) == (0, 0, [])


def test_a_model_that_means_nan_gets_and_gives_it(agent):
    agent.cloud.cut()
    response = asks(agent, NAN, release(agent, finite=False))
    assert np.isnan(response.outputs[0].array).any() and response.parameters["served_by"] == "edge"
    assert agent.slots.health("tiny").failures == 0


def test_a_local_answer_that_is_no_number_is_a_failure_that_the_cloud_covers(agent):
    async def scenario():
        await agent.slots.activate(release(agent, data=b"nan"), None, None)
        covered = await agent.ask(SURE)
        agent.cloud.cut()
        with pytest.raises(InferenceError, match=r"release 1: output 'logits' is NaN at \[0, 2\]"):
            await agent.ask(SURE)
        return covered

    covered = asyncio.run(scenario())
    assert (covered.parameters["served_by"], covered.parameters["fallback_reason"]) == ("cloud", "local-failed")
    np.testing.assert_allclose(covered.outputs[0].array, answer(SURE))
    health = agent.slots.health("tiny")
    assert (health.requests, health.failures) == (2, 2)  # what ends its probation


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_cloud_answer_that_is_no_number_does_not_go_out(agent, bad):
    agent.cloud.outputs = lambda x: {"logits": answer(x) * np.float32(bad)}
    response = asks(agent, UNSURE, release(agent))
    assert (response.parameters["served_by"], response.parameters["degraded"]) == ("edge", True)
    assert response.parameters["fallback_reason"] == "cloud-422"
    np.testing.assert_allclose(response.outputs[0].array, answer(UNSURE))
    assert agent.endpoint.breaker("tiny").failures == 0  # the cloud is there; the next request may fare better


def test_nobody_answers_where_local_model_and_cloud_both_give_nan(agent):
    agent.cloud.outputs = lambda x: {"logits": answer(x) * np.nan}
    with pytest.raises(InferenceError, match="cloud-422"):
        asks(agent, SURE, release(agent, data=b"nan"))


@pytest.mark.parametrize("declared", [False, True])
def test_without_a_manifest_the_cloud_says_whether_the_model_means_nan(agent, declared):
    agent.follow(ModelEntry(release=1))
    agent.cloud.outputs = lambda x: {"logits": answer(x) * np.nan}
    if declared:
        agent.cloud.parameters = {"non_finite": True}
        assert np.isnan(asyncio.run(agent.ask(SURE)).outputs[0].array).all()
        return
    with pytest.raises(InferenceError, match="cloud-422"):
        asyncio.run(agent.ask(SURE))


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (lambda x: {"scores": answer(x)}, "answered 'scores', not 'logits'"),
        (lambda x: {}, "answered nothing, not 'logits'"),
        (lambda x: {"logits": answer(x)[:, :2]}, r"is FP32 \[1, 2\], the model's is FP32 \[1, 3\]"),
        (lambda x: {"logits": answer(x)[0]}, r"is FP32 \[3\]"),
        (lambda x: {"logits": np.repeat(answer(x), 2, 0)}, r"is FP32 \[2, 3\], the model's is FP32 \[1, 3\]"),
        (lambda x: {"logits": answer(x)[:0]}, r"is FP32 \[0, 3\], the model's is FP32 \[1, 3\]"),
        (lambda x: {"logits": answer(x).astype(np.float64)}, "is FP64"),
    ],
)
def test_an_answer_of_another_model_or_request_does_not_go_out(agent, caplog, outputs, words):
    agent.cloud.outputs = outputs
    with caplog.at_level("DEBUG", "edge_agent.serving.engine"):
        response = asks(agent, UNSURE, release(agent))
    assert (response.parameters["served_by"], response.parameters["fallback_reason"]) == ("edge", "cloud-502")
    assert agent.endpoint.breaker("tiny").failures == 1
    with pytest.raises(CloudError, match=words):
        said = oip.InferResponse(
            model_name="tiny", outputs=tuple(oip.TensorValue(*item) for item in outputs(UNSURE).items())
        )
        checked(said, release(agent).manifest, asking(UNSURE))


def test_outputs_come_by_name_in_the_manifests_order_whatever_the_clouds_is(agent):
    manifest = msgspec.structs.replace(
        release(agent).manifest,
        outputs=(
            Tensor(name="logits", datatype="FP32", shape=(-1, 3)),
            Tensor(name="aux", datatype="FP32", shape=(-1, 3)),
        ),
    )
    logits, aux = np.float32([[9, 0, 0]]), np.float32([[0, 0, 9]])
    outputs = (oip.TensorValue("more", aux), oip.TensorValue("aux", aux), oip.TensorValue("logits", logits))
    said = oip.InferResponse(model_name="tiny", outputs=outputs)
    found = checked(said, manifest, asking(SURE))
    assert [value.name for value in found.outputs] == ["logits", "aux"]
    assert answers_of(found, manifest) == (0,)
    only = checked(said, manifest, asking(SURE, "aux"))
    assert [value.name for value in only.outputs] == ["aux"] and answers_of(only, manifest) == ()


def test_rows_count_of_ready_tensors_too_and_not_where_no_input_has_any(agent):
    manifest, one = release(agent).manifest, np.zeros((1, 4), np.float32)
    said = oip.InferResponse(model_name="tiny", outputs=(oip.TensorValue("logits", np.zeros((2, 3), np.float32)),))
    whole = msgspec.structs.replace(manifest, inputs=(Tensor(name="input", datatype="FP32", shape=(1, 4)),))
    assert checked(said, whole, asking(one)) == said
    ready = msgspec.structs.replace(asking(one), parameters={READY: "any"})
    with pytest.raises(CloudError, match=r"\[2, 3\]"):
        checked(said, manifest, ready)


def test_a_server_that_names_no_version_is_given_none(agent, monkeypatch):
    ask = agent.cloud.infer

    async def nameless(*question):
        return msgspec.structs.replace(await ask(*question), model_version="")

    monkeypatch.setattr(agent.cloud, "infer", nameless)
    made = release(agent)
    assert asks(agent, UNSURE, made).model_version == ""
    assert asks(agent, SURE, made).model_version == "1"


def audited(agent, *, data=b"fake"):
    """Ten audited requests in a cohort; the previous release, the shadow, is made of `data`."""

    async def scenario():
        agent.follow(ModelEntry(release=1, audit=Audit(auditor=7, share_ppm=1_000_000)))
        one = release(agent, 1, data=data)
        await agent.slots.activate(one, None, None)
        await agent.slots.activate(release(agent, 2), one, ROLLOUT)
        async with asyncio.timeout(30), agent.auditing():
            for _ in range(10):
                await agent.ask(SURE)
        await agent.writer.flush()

    asyncio.run(scenario())
    (window,) = windows(agent)
    return window


def test_an_auditor_that_answers_nan_is_no_evidence_but_a_failed_auditor(agent):
    """It would rank class 0 first, which is what the device answers, too."""
    agent.cloud.outputs = lambda x: {"logits": answer(x) * np.nan}
    window = audited(agent)
    assert (window.counters.get("audited", 0), window.pairs, agent.auditor.dropped) == (0, None, 10)


def test_a_shadow_that_answers_nan_is_no_evidence(agent):
    window = audited(agent, data=b"nan")
    assert (window.counters.get("audited", 0), window.pairs, agent.auditor.dropped) == (0, None, 10)


def test_in_process_it_is_the_same(tmp_path, monkeypatch):
    held = models.installed(tmp_path)
    StateFile(tmp_path).put_model("tiny", ModelState(state="committed", active=held))
    model, told = open_model(tmp_path, "tiny"), []
    monkeypatch.setattr(model, "_tell_failed", lambda _release, _started, why, newly: told.append(why is None))
    with pytest.raises(MalformedError, match=r"input 'input' is NaN at \[0, 1\]"):
        model.infer({"input": NAN})
    assert told == [False], "refused, which is no failure"
    monkeypatch.setattr(model._current()[1], "run", lambda _inputs: {"logits": np.full((1, 3), np.inf, np.float32)})
    with pytest.raises(InferenceError, match=r"output 'logits' is infinite at \[0, 0\]"):
        model.infer({"input": SURE})
    assert told == [False, True]
    model.close()

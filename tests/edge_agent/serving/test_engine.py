from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent.errors import ActivationError, InferenceError, LateError, NotFoundError
from edge_agent.serving import outcomes
from edge_agent.serving.cloud import CloudError
from edge_agent.serving.outcomes import HELD, SEVERAL, Afterwards
from edge_agent.serving.run_times import Took
from fleet.protocol import oip
from fleet.protocol.channel import Audit, ModelEntry, RolloutRef, Sampling, Telemetry
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import MalformedError
from fleet.protocol.messages import Sample
from fleet.protocol.telemetry import Window
from tests.support import models
from tests.support.agent import Agent
from tests.support.size import sized

SURE = np.array([[1, 0, 0, 0]], np.float32) * 5
UNSURE = np.zeros((1, 4), np.float32)
ROLLOUT = RolloutRef(id="r1", attempt=1, release=2, from_release=1, share_ppm=500_000, salt="s")


@pytest.fixture
def agent(tmp_path):
    return Agent(tmp_path)


def release(agent, number=1, data=b"fake", **more):
    return models.release(agent.blobs, number=number, data=data + bytes([number]), **more)


def windows(agent) -> list[Window]:
    return [decode_msgpack(r.body, Window, limit=1 << 20) for r in agent.spool.after(0, 100) if r.kind == "window"]


def test_a_confident_answer_stays_here(agent):
    async def scenario():
        await agent.slots.activate(release(agent, threshold=0.6), None, None)
        return await agent.ask(SURE)

    response = asyncio.run(scenario())
    assert response.parameters["served_by"] == "edge"
    assert response.parameters["degraded"] is False
    assert response.parameters["confidence"] > 0.9
    assert response.model_version == "1"
    np.testing.assert_allclose(response.outputs[0].array, models.answer(SURE))
    assert agent.cloud.asked == []


@pytest.mark.parametrize(("cloud", "version"), [(True, 1), (False, 9)])
def test_an_unsure_answer_is_deferred_to_the_releases_cloud_variant_else_the_auditor(agent, cloud, version):
    async def scenario():
        agent.follow(ModelEntry(release=1, audit=Audit(auditor=9, share_ppm=0)))
        await agent.slots.activate(release(agent, threshold=0.6, cloud=cloud), None, None)
        return await agent.ask(UNSURE)

    response = asyncio.run(scenario())
    assert response.parameters["served_by"] == "cloud"
    assert response.parameters["deferred"] is True
    assert agent.cloud.asked == [("tiny", version)]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (LateError("late"), "deadline"),
        (CloudError("broken", status=500), "cloud-500"),
        (RuntimeError("what nobody foresaw"), "cloud-failed"),
        (MalformedError("odd"), "cloud-failed"),
        (None, "unreachable"),
    ],
)
def test_without_the_cloud_the_local_answer_goes_out_degraded(agent, error, word):
    async def scenario():
        await agent.slots.activate(release(agent, threshold=0.6), None, None)
        agent.cloud.cut()
        agent.cloud.error = error or agent.cloud.error
        return [await agent.ask(UNSURE) for _ in range(5)]

    responses = asyncio.run(scenario())
    assert all(r.parameters["served_by"] == "edge" and r.parameters["degraded"] for r in responses)
    reasons = [r.parameters["fallback_reason"] for r in responses]
    assert reasons == [word] * 3 + ["breaker-open"] * 2
    assert len(agent.cloud.asked) == 3


def test_a_refusal_of_the_request_does_not_open_the_breaker(agent):
    async def scenario():
        await agent.slots.activate(release(agent, threshold=0.6), None, None)
        agent.cloud.error = CloudError("no such release", status=404)
        return [await agent.ask(UNSURE) for _ in range(5)]

    assert [r.parameters["fallback_reason"] for r in asyncio.run(scenario())] == ["cloud-404"] * 5


def test_a_release_with_nobody_in_the_cloud_does_not_ask(agent):
    async def scenario():
        await agent.slots.activate(release(agent, threshold=0.6, cloud=False), None, None)
        return await agent.ask(UNSURE)

    response = asyncio.run(scenario())
    assert (response.parameters["served_by"], response.parameters["degraded"]) == ("edge", False)
    assert response.parameters["fallback_reason"] == "cloud-off"
    assert agent.cloud.asked == []


@pytest.mark.parametrize("threshold", [0.6, None])
def test_who_asks_for_the_devices_own_answer_gets_it_and_the_cloud_is_not_off(agent, threshold):
    async def scenario():
        await agent.slots.activate(release(agent, threshold=threshold), None, None)
        return await agent.ask(UNSURE, route="edge")

    said = asyncio.run(scenario()).parameters
    assert (said["served_by"], said["degraded"], said["deferred"]) == ("edge", False, False)
    assert said["fallback_reason"] == ("edge-only" if threshold else "")
    assert agent.cloud.asked == []


def test_every_answer_says_who_gave_it_and_how_long_it_took(agent):
    async def scenario():
        await agent.slots.activate(release(agent, threshold=0.6), None, None)
        mine, theirs = await agent.ask(SURE), await agent.ask(UNSURE)
        agent.cloud.parameters = {"variant": "onnx-fp32-cloud"}
        named = await agent.ask(UNSURE)
        await agent.slots.deactivate("tiny")
        agent.follow(ModelEntry(release=1))
        return [one.parameters for one in (mine, theirs, named, await agent.ask(SURE))]

    answers = asyncio.run(scenario())
    kinds = {
        "served_by": str,
        "release": int,
        "variant": str,
        "degraded": bool,
        "deferred": bool,
        "fallback_reason": str,
        "latency_us": int,
    }
    for said in answers:
        assert {name: type(said[name]) for name in kinds} == kinds and said["latency_us"] >= 0
    assert [said["variant"] for said in answers] == ["onnx-fp32", "", "onnx-fp32-cloud", "onnx-fp32-cloud"]
    assert [said["release"] for said in answers] == [1, 1, 1, 0]
    assert answers[0]["confidence"] > 0.9


def test_a_failing_local_model_is_covered_by_the_cloud(agent):
    async def scenario():
        await agent.slots.activate(release(agent, data=b"failing"), None, None)
        response = await agent.ask(SURE)
        agent.cloud.cut()
        with pytest.raises(InferenceError, match="failing on purpose"):
            await agent.ask(SURE)
        return response

    response = asyncio.run(scenario())
    assert response.parameters["served_by"] == "cloud"
    assert response.parameters["fallback_reason"] == "local-failed"
    assert agent.slots.health("tiny").failures == 2


def test_no_local_model_yet(agent):
    async def scenario():
        with pytest.raises(NotFoundError):
            await agent.ask(SURE)
        agent.follow(ModelEntry(release=1))
        response = await agent.ask(SURE)
        agent.cloud.cut()
        with pytest.raises(InferenceError, match="not in service yet"):
            await agent.ask(SURE)
        return response

    response = asyncio.run(scenario())
    assert response.parameters["fallback_reason"] == "no-local-model"
    assert response.model_version == "7"


def test_versions_are_the_active_and_the_previous(agent):
    async def scenario():
        await agent.slots.activate(release(agent, 1), None, None)
        await agent.slots.activate(release(agent, 2, data=b"swapped"), release(agent, 1), None)
        answers = [await agent.ask(SURE, version) for version in ("", "2", "1")]
        with pytest.raises(NotFoundError, match="no version '3'"):
            await agent.ask(SURE, "3")
        return [int(a.outputs[0].array.argmax()) for a in answers]

    assert asyncio.run(scenario()) == [1, 1, 0]


def test_wrong_inputs_are_the_callers_mistake_not_a_failure(agent):
    async def scenario():
        await agent.slots.activate(release(agent), None, None)
        with pytest.raises(MalformedError):
            await agent.ask(np.zeros((1, 5), np.float32))

    asyncio.run(scenario())
    assert agent.slots.health("tiny") == type(agent.slots.health("tiny"))(requests=0, failures=0)


def breaks(agent, error):
    """The active release's model raises `error` from now on."""

    def run(_inputs):
        raise error

    agent.slots.slot("tiny").active._model.run = run


def test_a_request_under_way_is_no_good_answer_yet(agent):
    async def scenario():
        await agent.slots.activate(release(agent), None, None)
        agent.cloud.cut()
        served, goes_on, begun = agent.slots.slot("tiny").active, threading.Event(), threading.Event()

        def run(_inputs):
            begun.set()
            goes_on.wait(30)
            raise RuntimeError("device busy")

        served._model.run = run
        served.costs.learn(SURE.size, Took(1.0, 1.0))  # known to be slow: runs in a thread
        waiting = [asyncio.create_task(agent.ask(SURE)) for _ in range(3)]
        await asyncio.to_thread(begun.wait, 30)
        early = agent.slots.health("tiny")
        goes_on.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        return early, answers, agent.slots.health("tiny")

    early, answers, late = asyncio.run(scenario())
    assert (early.requests, early.failures) == (0, 0)
    assert {type(answer) for answer in answers} == {InferenceError}
    assert (late.requests, late.failures) == (3, 3)


@pytest.mark.parametrize("error", [KeyError("logits"), TypeError("no"), MalformedError("no table"), OSError("gone")])
def test_whatever_a_model_raises_is_a_failed_run_that_the_cloud_covers(agent, error, caplog):
    async def scenario():
        await agent.slots.activate(release(agent), None, None)
        breaks(agent, error)
        covered = await agent.ask(SURE)
        agent.cloud.cut()
        with pytest.raises(InferenceError, match="failed: "):
            await agent.ask(SURE)
        return covered

    assert asyncio.run(scenario()).parameters["served_by"] == "cloud"
    health = agent.slots.health("tiny")
    assert (health.requests, health.failures) == (2, 2)
    assert any(r.exc_info for r in caplog.records) == isinstance(error, KeyError | TypeError)


@pytest.mark.parametrize("rows", [0, 1025])
def test_a_batch_that_no_model_need_take_counts_against_none(agent, rows, caplog):
    async def scenario():
        await agent.slots.activate(release(agent), None, None)
        breaks(agent, ValueError("too many rows"))
        covered = await agent.ask(np.zeros((rows, 4), np.float32))
        agent.cloud.cut()
        with pytest.raises(MalformedError, match=f"a batch of {rows} rows; a model takes 1 to 1024"):
            await agent.ask(np.zeros((rows, 4), np.float32))
        await agent.writer.flush()
        return covered

    assert asyncio.run(scenario()).parameters["served_by"] == "cloud"
    health = agent.slots.health("tiny")
    assert (health.requests, health.failures) == (0, 0)


def test_a_release_that_does_not_load_leaves_the_old_one_serving(agent):
    async def scenario():
        await agent.slots.activate(release(agent, 1), None, None)
        with pytest.raises(ActivationError):
            await agent.slots.activate(release(agent, 2, data=b"broken"), release(agent, 1), None)
        return await agent.ask(SURE)

    assert asyncio.run(scenario()).model_version == "1"


def test_a_tampered_blob_is_not_loaded(agent):
    async def scenario():
        bad = release(agent)
        (agent.blobs / bad.variant.blob.sha256).write_bytes(b"other")
        with pytest.raises(ActivationError, match="hash"):
            await agent.slots.activate(bad, None, None)

    asyncio.run(scenario())


def test_a_swap_under_load_fails_no_request_and_closes_what_it_replaced(agent):
    async def scenario():
        await agent.slots.activate(release(agent, 1), None, None)
        done, failures = [], []

        async def client():
            while not stop.is_set():
                try:
                    done.append((await agent.ask(SURE)).model_version)
                except Exception as error:
                    failures.append(error)
                await asyncio.sleep(0)

        stop = asyncio.Event()
        clients = [asyncio.create_task(client()) for _ in range(8)]
        for number in range(2, last + 1):
            await agent.slots.activate(release(agent, number), None, None)
            served = len(done)
            while len(done) < served + 8:
                await asyncio.sleep(0)
        stop.set()
        await asyncio.gather(*clients)
        return done, failures

    last = sized(5, 40)
    done, failures = asyncio.run(scenario())
    assert failures == []
    assert {str(n) for n in range(2, last + 1)} <= set(done)
    assert [model.closed for model in agent.runtime.loaded] == [True] * (last - 1) + [False]


def test_a_model_in_use_is_closed_only_after_the_request(agent):
    async def scenario():
        await agent.slots.activate(release(agent, 1), None, None)
        with agent.slots.lease("tiny") as served:
            await agent.slots.activate(release(agent, 2), None, None)
            assert served.run({"input": SURE})["logits"].shape == (1, 3)
            assert not agent.runtime.loaded[0].closed
        assert agent.runtime.loaded[0].closed

    asyncio.run(scenario())


def test_going_back_reuses_the_loaded_previous(agent):
    async def scenario():
        one, two = release(agent, 1), release(agent, 2)
        await agent.slots.activate(one, None, None)
        await agent.slots.activate(two, one, ROLLOUT)
        await agent.slots.activate(one, two, None)
        await agent.slots.deactivate("tiny")

    asyncio.run(scenario())
    assert [model.closed for model in agent.runtime.loaded] == [True, True]
    assert agent.slots.names() == []


def test_audits_in_a_cohort_count_pairs(agent):
    """Release 2 has two classes swapped: the auditor agrees with release 1 wherever they differ."""

    async def scenario():
        agent.follow(ModelEntry(release=1, audit=Audit(auditor=7, share_ppm=1_000_000)))
        one, two = release(agent, 1), release(agent, 2, data=b"swapped")
        await agent.slots.activate(one, None, None)
        await agent.slots.activate(two, one, ROLLOUT)
        async with agent.auditing():
            for row in models.inputs(40):
                await agent.ask(row[None])
        await agent.writer.flush()

    asyncio.run(scenario())
    (window,) = windows(agent)
    truth = models.answer(models.inputs(40)).argmax(axis=1)
    swapped = int(np.sum(truth < 2))
    assert (window.pairs.both, window.pairs.only_old, window.pairs.only_new, window.pairs.neither) == (
        40 - swapped,
        swapped,
        0,
        0,
    )
    assert (window.pairs.rollout, window.pairs.old, window.pairs.new) == ("r1", 1, 2)
    assert window.counters["audited"] == 40
    assert window.counters["audit_agree"] == 40 - swapped
    assert window.counters["requests"] == window.counters["edge"] == 40
    assert sum(window.classes) == 40
    assert window.sketch.count == 40
    assert {version for _, version in agent.cloud.asked} == {7}


def test_audits_draw_the_channels_share_of_all_requests(agent):
    async def scenario():
        agent.follow(ModelEntry(release=1, audit=Audit(auditor=7, share_ppm=200_000)))
        await agent.slots.activate(release(agent), None, None)
        async with agent.auditing():
            for _ in range(500):
                await agent.ask(SURE)

    asyncio.run(scenario())
    assert 60 <= len(agent.cloud.asked) <= 140  # 100 ± 4.5 standard deviations


def test_a_dead_auditor_drops_audits_and_touches_no_answer(agent):
    async def scenario():
        agent.follow(ModelEntry(release=1, audit=Audit(auditor=7, share_ppm=1_000_000)))
        await agent.slots.activate(release(agent), None, None)
        agent.cloud.cut()
        async with agent.auditing():
            answers = [await agent.ask(SURE) for _ in range(20)]
        await agent.writer.flush()
        return answers

    answers = asyncio.run(scenario())
    said = [{**a.parameters, "latency_us": 0} for a in answers]
    assert said == [said[0]] * 20 and not said[0]["degraded"]
    assert agent.auditor.dropped == 20
    assert windows(agent)[0].counters.get("audited", 0) == 0


def test_a_shadow_that_fails_in_any_way_costs_its_own_audits_only(agent):
    async def scenario():
        agent.follow(ModelEntry(release=1, audit=Audit(auditor=7, share_ppm=1_000_000)))
        one = release(agent, 1)
        await agent.slots.activate(one, None, None)
        await agent.slots.activate(release(agent, 2), one, ROLLOUT)

        def run(inputs):
            raise KeyError("logits")

        agent.slots.slot("tiny").previous._model.run = run
        async with asyncio.timeout(30), agent.auditing():
            for _ in range(5):
                await agent.ask(SURE)

    asyncio.run(scenario())
    assert agent.auditor.dropped == 5
    health = agent.slots.health("tiny")
    assert (health.requests, health.failures) == (5, 0)  # the shadow answers nobody


def test_a_full_audit_queue_drops_instead_of_waiting(agent):
    async def scenario():
        agent.follow(ModelEntry(release=1, audit=Audit(auditor=7, share_ppm=1_000_000)))
        await agent.slots.activate(release(agent), None, None)
        for _ in range(300):
            await agent.ask(SURE)

    asyncio.run(scenario())
    assert agent.auditor.dropped == 300 - 256


def test_large_inputs_do_not_gather_in_the_audit_queue(agent):
    async def scenario():
        agent.follow(ModelEntry(release=1, audit=Audit(auditor=7)))
        await agent.slots.activate(release(agent), None, None)
        served, dropped = agent.slots.slot("tiny").active, []
        for sizes in ((6, 6, 6), (20, 6), (6, 6)):  # megabytes; one may always wait
            for size in sizes:
                agent.recorder.audit(served, {"input": np.zeros((size << 16, 4), np.float32)}, (0,))
            dropped.append(agent.auditor.dropped)
            agent.cloud.cut()  # what waits ends in no time, and its bytes are free again
            async with agent.auditing():
                pass
            dropped[-1] -= sum(dropped[:-1])
            agent.auditor.dropped = sum(dropped)
        return dropped

    assert asyncio.run(scenario()) == [1, 1, 0]


def test_a_new_release_closes_the_old_ones_window(agent):
    async def scenario():
        agent.follow(ModelEntry(release=1), telemetry=Telemetry(window_s=1e9, window_requests=10**9))
        await agent.slots.activate(release(agent, 1), None, None)
        await agent.ask(SURE)
        await agent.slots.activate(release(agent, 2), None, None)
        await agent.ask(SURE)
        await agent.writer.step()

    asyncio.run(scenario())
    assert [w.release for w in windows(agent)] == [1]


def test_samples_are_off_until_the_channel_enables_them(agent):
    async def scenario(sampling):
        agent.follow(ModelEntry(release=1, sampling=sampling))
        await agent.slots.activate(release(agent, threshold=0.6), None, None)
        for _ in range(10):
            await agent.ask(UNSURE)
        await agent.writer.flush()

    asyncio.run(scenario(Sampling()))
    assert len(agent.samples) == 0
    asyncio.run(scenario(Sampling(enabled=True, random_ppm=0, uncertain_ppm=1_000_000)))
    assert len(agent.samples) == 10
    _, body = agent.samples.batch()
    from fleet.protocol.messages import SampleBatch

    sample: Sample = decode_msgpack(body, SampleBatch, limit=1 << 20).samples[0]
    assert (sample.reason, sample.release, sample.cloud_prediction) == ("uncertain", 1, 0)
    assert sample.inputs[0].shape == (1, 4)


def test_a_sample_of_a_model_without_a_batch_is_whole(agent):
    import msgspec

    from fleet.protocol.manifest import Tensor
    from fleet.protocol.messages import SampleBatch

    made = release(agent)
    manifest = msgspec.structs.replace(
        made.manifest,
        inputs=(Tensor(name="input", datatype="FP32", shape=(4,)),),
        outputs=(Tensor(name="logits", datatype="FP32", shape=(3,)),),
    )

    async def scenario():
        agent.follow(ModelEntry(release=1, sampling=Sampling(enabled=True, random_ppm=1_000_000)))
        await agent.slots.activate(msgspec.structs.replace(made, manifest=manifest), None, None)
        await agent.ask(SURE[0])
        await agent.writer.flush()

    asyncio.run(scenario())
    (sample,) = decode_msgpack(agent.samples.batch()[1], SampleBatch, limit=1 << 20).samples
    assert (sample.inputs[0].shape, sample.outputs[0].shape) == ((4,), (3,))


def test_a_caller_may_keep_a_request_on_the_device_and_out_of_the_records(agent):
    async def scenario():
        agent.follow(ModelEntry(release=1, audit=Audit(auditor=7, share_ppm=1_000_000)))
        await agent.slots.activate(release(agent, threshold=0.6), None, None)
        async with agent.auditing():
            response = await agent.ask(UNSURE, route="edge", observe=False)
        await agent.writer.flush()
        return response

    response = asyncio.run(scenario())
    assert (response.parameters["served_by"], response.parameters["degraded"]) == ("edge", False)
    assert agent.cloud.asked == []
    assert windows(agent) == []


def test_what_is_recorded_keeps_no_answer_waiting(agent):
    async def scenario():
        await agent.slots.activate(release(agent), None, None)
        heard = []
        agent.recorder.finished_together = heard.extend
        agent.engine._observer = Afterwards(agent.recorder)
        answers = [agent.engine.answer("tiny", "", asked(SURE)) for _ in range(3)]
        assert heard == [] and all(answer.parameters["served_by"] == "edge" for answer in answers)
        while len(heard) < 3:  # soon after, by itself
            await asyncio.sleep(0)
        assert [outcome.verdict.served_by for outcome in heard] == ["edge"] * 3
        with pytest.raises(MalformedError):
            await agent.ask(np.zeros((1, 5), np.float32))
        await agent.writer.flush()

    asyncio.run(scenario())
    assert windows(agent)[0].refusals == {"shape": 1}


def test_what_waits_to_be_recorded_is_bounded_in_number_and_bytes(agent, monkeypatch):
    monkeypatch.setattr(outcomes, "DELAY_S", 3600.0)  # however slow the machine, the bounds alone tell

    async def scenario():
        await agent.slots.activate(release(agent), None, None)
        told = []
        agent.recorder.finished_together = lambda outcomes: told.append(len(outcomes))
        agent.engine._observer = Afterwards(agent.recorder)
        for _ in range(SEVERAL):
            await agent.ask(SURE)
        assert told == []  # no answer waits for it
        await asyncio.sleep(0)
        assert told == [SEVERAL]
        await agent.ask(np.repeat(SURE, HELD // SURE.nbytes, axis=0))
        await asyncio.sleep(0)
        assert told == [SEVERAL, 1]

    asyncio.run(scenario())


def test_who_closes_windows_shows_figures_or_swaps_hears_of_all_requests_before(agent):
    async def scenario():
        await agent.slots.activate(release(agent, 1), None, None)
        agent.engine._observer = Afterwards(agent.recorder)
        await agent.ask(SURE)
        assert b'edge_inference_requests_total{model="tiny",served_by="edge",degraded="false"} 1' in (
            agent.metrics.render()
        )
        await agent.ask(SURE)
        await agent.slots.activate(release(agent, 2), None, None)
        await agent.ask(SURE)
        await agent.writer.flush()

    asyncio.run(scenario())
    assert {window.release: window.counters["requests"] for window in windows(agent)} == {1: 2, 2: 1}


def test_requests_of_one_turn_are_recorded_as_one_by_one(tmp_path):
    def recorded(folder, together):
        agent, heard = Agent(folder), []
        tell, agent.engine._observer = agent.recorder, Afterwards(agent.recorder)
        agent.engine._observer.finished = heard.append

        async def scenario():
            for number in (1, 2):
                await agent.slots.activate(release(agent, number), None, None)
                for x in (SURE, UNSURE, SURE):
                    await agent.ask(x)
            late = heard[3], heard[0], heard[4], heard[1], heard[2], heard[5]  # those of both, mixed
            if together:
                tell.finished_together(late)
            else:
                for outcome in late:
                    tell.finished(outcome)
            await agent.writer.flush()

        asyncio.run(scenario())
        found = [
            replace(window, latency_us=(), counters={**window.counters, "latency_us_sum": 0})
            for window in windows(agent)
        ]
        return sorted(found, key=lambda window: window.release)

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    together, alone = recorded(tmp_path / "a", True), recorded(tmp_path / "b", False)
    assert [(window.release, window.counters["requests"]) for window in together] == [(1, 3), (2, 3)]
    assert together == alone


def asked(x):
    return oip.InferRequest(inputs=(oip.TensorValue("input", x),))

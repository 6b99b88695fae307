"""Requests of one turn of the event loop run together, and nobody can tell by the answer."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading

import numpy as np
import pytest

from edge_agent import runtimes
from edge_agent.errors import LateError
from edge_agent.serving import joint
from edge_agent.serving.joint import QUICK_S, SPARED_S, WIDTH, Joint, comparable, pays, same_bits
from edge_agent.serving.turns import InTurn
from fleet.protocol import oip
from fleet.protocol.channel import Audit, ModelEntry, Sampling, Telemetry
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import RefusalError
from fleet.protocol.telemetry import Window
from tests.support import models
from tests.support.agent import Agent
from tests.support.fake_runtime import FakeModel, FakeRuntime

SURE = np.array([[5, 0, 0, 0]], np.float32)
VECTORS = [{"input": row[None]} for row in models.inputs(6, seed=1)]


class Joining(FakeModel):
    """Takes several rows, and answers each as alone, to the bit. `asked` are the rows of its runs."""

    joins = True

    def __init__(self, model: bytes) -> None:
        super().__init__(model)
        self.asked: list[int] = []
        self.fails = False

    def run(self, inputs):
        rows = inputs["input"]
        self.asked.append(len(rows))
        if self.fails and len(rows) > 1:
            raise RuntimeError("no room")
        parts = [super(Joining, self).run({"input": rows[at : at + 1]})["logits"] for at in range(len(rows))]
        return {"logits": np.concatenate(parts)}


class JoiningRuntime(FakeRuntime):
    def load(self, model, manifest, variant):
        super().load(model, manifest, variant)
        self.loaded[-1] = Joining(model)
        return self.loaded[-1]


class Mixing(Joining):
    """A row's answer depends on the others."""

    def run(self, inputs):
        return {"logits": inputs["input"] - inputs["input"].mean(axis=0)}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining pays here by decree, so that the machine's mood does not judge it."""
    monkeypatch.setattr(joint, "pays", lambda model, request: model.run(request) and 3)


@pytest.fixture
def agent(tmp_path):
    return Agent(tmp_path, runtime=JoiningRuntime())


def asked(x, **parameters) -> oip.InferRequest:
    return oip.InferRequest(inputs=(oip.TensorValue("input", x),), parameters=parameters)


async def warmed(agent: Agent) -> None:
    """Two requests in one turn, which ask for the interpreter that has room for several."""
    first, second = [agent.engine.answer("tiny", "", asked(SURE)) for _ in range(2)]
    assert type(first) is type(second) is oip.InferResponse
    while agent.slots.find("tiny").joint.state == "loading":
        await asyncio.sleep(0)


async def ready(agent: Agent) -> Joining:
    """The interpreter for several rows, which two requests of one turn have asked for."""
    await agent.slots.activate(models.release(agent.blobs, runtime="litert", data=b"fake"), None, None)
    served = agent.slots.find("tiny")
    assert served.joint.state == "unknown" and len(agent.runtime.loaded) == 1
    await warmed(agent)
    assert served.joint.state == "ready"
    served.joint.model.asked.clear()
    return served.joint.model


def windows(agent: Agent) -> list[Window]:
    return [decode_msgpack(r.body, Window, limit=1 << 20) for r in agent.spool.after(0, 100) if r.kind == "window"]


def hear_each(found: list[object]) -> list[asyncio.Future]:
    loop = asyncio.get_running_loop()
    futures = []
    for one in found:
        future = loop.create_future()
        one.hear = future.set_result
        futures.append(future)
    return futures


@pytest.mark.parametrize("count", [2, 3, WIDTH, WIDTH + 1, 3 * WIDTH - 1])
def test_a_turns_requests_get_the_answers_that_they_get_alone(agent, count):
    rows = [x[None] for x in models.inputs(count, seed=5)]

    async def scenario():
        together = await ready(agent)
        found = [agent.engine.answer("tiny", "", asked(x)) for x in rows]
        assert all(type(one) is InTurn for one in found), "the turn before had several, too"
        return together, await asyncio.gather(*hear_each(found))

    together, answers = asyncio.run(scenario())
    for x, answer in zip(rows, answers, strict=True):
        assert answer.outputs[0].array.tobytes() == models.answer(x).tobytes()
        assert answer.outputs[0].array.shape == (1, 3)
        assert answer.parameters["served_by"] == "edge" and answer.parameters["confidence"] > 0.3
    # Fewer than three run alone, more are filled up.
    whole, rest = divmod(count, WIDTH)
    assert together.asked == [WIDTH] * (whole + (rest >= 3))


def test_one_clients_request_never_waits(agent):
    async def scenario():
        together = await ready(agent)
        await asyncio.gather(*hear_each([agent.engine.answer("tiny", "", asked(models.inputs(1)))]))
        for x in models.inputs(5):
            assert type(agent.engine.answer("tiny", "", asked(x[None]))) is oip.InferResponse
            await asyncio.sleep(0)
        return together

    assert asyncio.run(scenario()).asked == []


def test_windows_health_and_audits_count_each_request(agent):
    agent.follow(
        ModelEntry(release=1, audit=Audit(auditor=1, share_ppm=1_000_000), sampling=Sampling(enabled=False)),
        telemetry=Telemetry(window_requests=100),
    )
    rows = [x[None] for x in models.inputs(WIDTH, seed=5)]

    async def scenario():
        await ready(agent)
        before = agent.slots.health("tiny").requests
        await asyncio.gather(*hear_each([agent.engine.answer("tiny", "", asked(x)) for x in rows]))
        health = agent.slots.health("tiny")
        assert health.requests - before == WIDTH and health.failures == 0 and health.timed == before + WIDTH
        statistics = agent.slots.find("tiny").statistics
        async with agent.auditing():
            pass
        await agent.writer.flush()
        return statistics

    asyncio.run(scenario())
    [window] = windows(agent)
    assert window.counters["requests"] == window.counters["edge"] == WIDTH + 2
    assert sum(window.classes) == WIDTH + 2
    assert len(agent.cloud.asked) == WIDTH + 2, "each was audited"


def test_a_request_that_is_refused_or_late_costs_no_other_its_answer(agent):
    good = [x[None] for x in models.inputs(WIDTH, seed=5)]

    async def scenario():
        await ready(agent)
        loop = asyncio.get_running_loop()
        requests = [asked(x) for x in good]
        found = [agent.engine.answer("tiny", "", one) for one in requests[:4]]
        with pytest.raises(RefusalError):
            agent.engine.answer("tiny", "", asked(np.full((1, 4), np.nan, np.float32)))
        late = agent.engine.answer("tiny", "", asked(good[0], timeout=1), loop.time() - 5)
        found += [agent.engine.answer("tiny", "", one) for one in requests[4:]]
        [too_late] = hear_each([late])
        answers = await asyncio.gather(*hear_each(found))
        with pytest.raises(LateError):
            await (await too_late)
        return answers

    for x, answer in zip(good, asyncio.run(scenario()), strict=True):
        assert answer.outputs[0].array.tobytes() == models.answer(x).tobytes()


def test_a_late_request_is_counted_as_one_that_comes_alone(agent):
    agent.follow(ModelEntry(release=1), telemetry=Telemetry(window_requests=100))

    async def scenario():
        await ready(agent)
        loop = asyncio.get_running_loop()
        found = [agent.engine.answer("tiny", "", asked(SURE)) for _ in range(5)]
        late = agent.engine.answer("tiny", "", asked(SURE, timeout_ms=1), loop.time() - 5)
        [*_, outcome] = hear_each([*found, late])
        outcome = await outcome
        with pytest.raises(LateError):
            await outcome
        await agent.writer.flush()
        return agent.slots.find("tiny")

    served = asyncio.run(scenario())
    [window] = windows(agent)
    assert (window.counters["requests"], window.counters["refused"]) == (2 + 5 + 1, 1)
    assert served.refused == 1 and served.failures == 0


def test_requests_that_fail_together_are_asked_alone(agent, caplog):
    rows = [x[None] for x in models.inputs(WIDTH, seed=5)]

    async def scenario():
        together = await ready(agent)
        together.fails = True
        with caplog.at_level(logging.INFO):
            answers = await asyncio.gather(*hear_each([agent.engine.answer("tiny", "", asked(x)) for x in rows]))
        return answers, agent.slots.health("tiny")

    answers, health = asyncio.run(scenario())
    assert [a.outputs[0].array.tobytes() for a in answers] == [models.answer(x).tobytes() for x in rows]
    assert health.failures == 0 and "failed together: RuntimeError: no room" in caplog.text


def test_an_unsure_answer_among_them_goes_to_the_cloud(agent):
    async def scenario():
        await agent.slots.activate(
            models.release(agent.blobs, runtime="litert", data=b"fake", threshold=0.6), None, None
        )
        await warmed(agent)
        unsure = np.zeros((1, 4), np.float32)
        agent.cloud.asked.clear()
        found = [agent.engine.answer("tiny", "", asked(x)) for x in (SURE, unsure, SURE, SURE)]
        answers = await asyncio.gather(*hear_each(found))
        return [one if isinstance(one, oip.InferResponse) else await one for one in answers]

    said = [answer.parameters["served_by"] for answer in asyncio.run(scenario())]
    assert said == ["edge", "cloud", "edge", "edge"]
    assert len(agent.cloud.asked) == 1


def test_a_release_that_is_replaced_in_a_turn_answers_what_waits(agent):
    async def scenario():
        await ready(agent)
        served = agent.slots.find("tiny")
        waiting = hear_each([agent.engine.answer("tiny", "", asked(x[None])) for x in models.inputs(WIDTH)])
        await agent.slots.deactivate("tiny")  # which does not yield
        assert not agent.runtime.loaded[0].closed
        answers = await asyncio.gather(*waiting)
        assert all(isinstance(answer, oip.InferResponse) for answer in answers)
        return served, agent.runtime.loaded

    served, loaded = asyncio.run(scenario())
    assert served.references == 0 and all(model.closed for model in loaded)


def test_only_rows_that_nobody_else_changes_are_joined():
    assert same_bits(Joining(b""), VECTORS)
    assert not same_bits(Mixing(b""), VECTORS)
    assert not same_bits(Joining(b""), VECTORS[:1]), "one vector says nothing of neighbours"
    other = {"input": np.zeros((1, 9), np.float32)}
    two = {"input": np.zeros((2, 4), np.float32)}
    assert comparable([*VECTORS, other, two]) == VECTORS


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_real_interpreters_are_asked(tmp_path, precision):
    release = models.release(tmp_path, runtime="litert", data=models.litert_bytes(precision))
    runtime = runtimes.for_variant(release.variant)
    model = runtime.load(models.litert_bytes(precision), release.manifest, release.variant)
    found = same_bits(model, VECTORS)
    alone = [model.run(vector)["logits"].tobytes() for vector in VECTORS[:WIDTH]]
    rows = np.concatenate([vector["input"] for vector in VECTORS[:WIDTH]])
    together = model.run({"input": rows})["logits"]
    assert found == (alone == [together[at : at + 1].tobytes() for at in range(len(rows))])
    model.close()


@pytest.mark.parametrize(
    ("alone", "together", "least"),
    [
        (80e-6, WIDTH * 60e-6, 5),
        (80e-6, WIDTH * 80e-6, 7),
        (1e-6, 1e-6, 2),
        (1e-3, 8e-3, WIDTH + 1),
        (10e-6, WIDTH * 60e-6, 16),
        (QUICK_S, QUICK_S + 1e-6, WIDTH + 1),
    ],
)
def test_it_pays_where_a_run_together_is_cheaper_than_its_requests(alone, together, least):
    took = itertools.chain(*[(0.0, alone)] * joint.TIMES, *[(0.0, together)] * joint.TIMES)
    assert pays(Joining(b""), VECTORS[0], clock=lambda: next(took)) == least
    assert SPARED_S == 20e-6


class Loading:
    """Loads when it is let, in a thread."""

    def __init__(self, model: Joining | None) -> None:
        self.model, self.times, self.go = model, 0, threading.Event()

    def __call__(self) -> Joining:
        self.times += 1
        assert self.go.wait(20)
        if self.model is None:
            raise MemoryError("no room")
        return self.model


async def settled(one: Joint) -> None:
    while one._loading is not None:
        await asyncio.sleep(0)


def test_the_interpreter_is_loaded_once_and_closed_with_its_release():
    async def scenario():
        load = Loading(Joining(b""))
        one = Joint(Joining(b""), load, lambda: VECTORS)
        assert load.times == 0
        one.wanted()
        one.wanted()
        assert not one.takes(VECTORS[0])
        load.go.set()
        await settled(one)
        assert load.times == 1 and one.takes(VECTORS[0]) and not one.takes({"input": np.zeros((2, 4), np.float32)})
        one.close()
        assert load.model.closed and not one.takes(VECTORS[0])

    asyncio.run(scenario())


def test_one_that_comes_after_the_end_of_its_release_is_closed():
    async def scenario():
        load = Loading(Joining(b""))
        one = Joint(Joining(b""), load, lambda: VECTORS)
        one.wanted()
        one.close()
        load.go.set()
        await settled(one)
        assert load.model.closed and one.model is None and not one.takes(VECTORS[0])

    asyncio.run(scenario())


@pytest.mark.parametrize("model", [None, Mixing(b"")], ids=["it cannot be loaded", "it mixes rows"])
def test_without_one_each_request_runs_alone_for_good(model, caplog):
    async def scenario():
        load = Loading(model)
        one = Joint(Joining(b""), load, lambda: VECTORS)
        one.wanted()
        load.go.set()
        await settled(one)
        one.wanted()
        assert one.state == "off" and load.times == 1

    asyncio.run(scenario())
    assert ("no room" in caplog.text) == (model is None)
    assert model is None or model.closed


def test_a_session_that_takes_any_number_of_rows_is_its_own():
    async def scenario():
        own = Joining(b"")
        one = Joint(own, None, lambda: VECTORS)
        one.wanted()
        await settled(one)
        assert one.model is own
        one.close()
        assert not own.closed

    asyncio.run(scenario())


def test_a_model_that_cannot_be_joined_is_never_loaded_again():
    async def scenario():
        one = Joint(FakeModel(b""), None, lambda: VECTORS)
        one.wanted()
        assert one.state == "off" and one._loading is None

    asyncio.run(scenario())

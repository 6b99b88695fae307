"""Interpreters of a release, the queue before them, and the deadlines that bind it."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from edge_agent.errors import InferenceError, LateError
from edge_agent.serving import instances
from edge_agent.serving.instances import EXTRA_BYTES, PER_BYTE, Instances, most_interpreters
from edge_agent.serving.run_times import RunTimes, Took
from fleet.protocol import oip
from fleet.protocol.channel import ModelEntry
from fleet.protocol.errors import MalformedError
from tests.edge_agent.serving.test_app import JSON, PATH
from tests.fleet.serving.listener import listening, noted, post, until
from tests.support import models
from tests.support.agent import Agent

X = np.array([[9, 0, 0, 0]], np.float32)


class Model:
    """Stands for an interpreter."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_cores_and_memory_bound_the_interpreters():
    assert most_interpreters(1000, cores=4) == 4
    assert most_interpreters(EXTRA_BYTES // PER_BYTE, cores=4) == 2
    assert most_interpreters(EXTRA_BYTES, cores=4) == 1
    assert most_interpreters(0, cores=1) == 1


def test_another_interpreter_is_loaded_when_a_request_has_to_wait_and_no_more_than_there_may_be():
    made = []

    def load():
        made.append(Model())
        return made[-1]

    async def scenario():
        first = Model()
        pool = Instances(first, load, 2)
        assert pool.idle() is first and await pool.take(None, 0.0) is first
        assert pool.idle() is None and made == []
        second = await pool.take(None, 0.0)
        assert [second] == made and len(pool) == 2
        waiting = [asyncio.create_task(pool.take(None, 0.0)) for _ in range(3)]
        await asyncio.sleep(0)
        assert pool.waiting == 3 and pool.idle() is None
        for model in (first, second, first):
            pool.give(model)
        assert {id(await one) for one in waiting} == {id(first), id(second)} and len(made) == 1
        pool.close()
        assert first.closed and second.closed

    asyncio.run(scenario())


def test_an_interpreter_that_cannot_be_loaded_leaves_the_first_one(caplog):
    async def scenario():
        first = Model()
        pool = Instances(first, lambda: 1 / 0, 4)
        await pool.take(None, 0.0)
        waiting = asyncio.create_task(pool.take(None, 0.0))
        while "further interpreter" not in caplog.text:
            await asyncio.sleep(0)
        pool.give(first)
        assert await waiting is first and len(pool) == 1

    asyncio.run(scenario())


def test_a_session_that_answers_several_requests_counts_as_several():
    async def scenario():
        pool = Instances(Model(), None, 3)
        assert len({id(await pool.take(None, 0.0)) for _ in range(3)}) == 1
        assert pool.idle() is None

    asyncio.run(scenario())


def test_who_waits_goes_at_the_deadline_and_costs_nobody_a_place(monkeypatch):
    monkeypatch.setattr(instances, "QUEUE", 2)

    async def scenario():
        first = Model()
        pool = Instances(first, None, 1)
        await pool.take(None, 0.0)
        now = asyncio.get_running_loop().time()
        late = [asyncio.create_task(pool.take(now + 0.001, 0.0)), asyncio.create_task(pool.take(None, 0.0))]
        await asyncio.sleep(0)
        with pytest.raises(InferenceError) as caught:
            await pool.take(None, 4.0)
        assert caught.value.retry_after_s == 8
        with pytest.raises(LateError):
            await late[0]
        pool.give(first)
        assert await late[1] is first

    asyncio.run(scenario())


@pytest.fixture
def held(tmp_path):
    """A real LiteRT model that is known to be slow; its runs wait for `go_on`."""
    agent = Agent(tmp_path)
    agent.follow(ModelEntry(release=1))
    go_on, threads = threading.Event(), []

    async def serve(scenario):
        release = models.release(agent.blobs, data=models.litert_bytes(), runtime="litert")
        await agent.slots.activate(release, None, None)
        served = agent.slots.slot("tiny").active
        served.instances._limit = 1
        run = served._model.run

        def wait(inputs):
            threads.append(threading.current_thread())
            assert go_on.wait(60)
            return run(inputs)

        served._model.run = wait
        served.costs.learn(X.size, Took(1.0, 1.0))
        try:
            return await scenario(agent, served, go_on, threads)
        finally:
            go_on.set()
            while served.references > 1:
                await asyncio.sleep(0)

    yield lambda scenario: asyncio.run(serve(scenario))
    go_on.set()


def test_while_an_interpreter_is_busy_in_a_thread_nobody_waits_for_it_on_the_event_loop(held):
    async def scenario(agent, served, go_on, threads):
        first = asyncio.create_task(agent.ask(X))
        await until(lambda: threads)
        served.costs = RunTimes()
        second = asyncio.create_task(agent.ask(X))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not second.done()
        go_on.set()
        answers = [await first, await second]
        assert len(answers) == 2 and threading.main_thread() not in threads

    held(scenario)


@pytest.mark.parametrize("parameters", [{"timeout": 1000}, {"timeout_ms": 1}, {"deadline_ms": 1.0}])
def test_a_deadline_binds_the_queue_and_the_run_and_blames_nobody(held, parameters):
    async def scenario(agent, served, go_on, threads):
        with pytest.raises(LateError, match="while the model ran"):
            await agent.ask(X, **parameters)
        with pytest.raises(LateError, match="others had the model"):
            await agent.ask(X, **parameters)
        assert (served.requests, served.failures, served.refused) == (0, 0, 2)
        go_on.set()
        await until(lambda: served.requests)  # the late run counts when it ends
        assert (served.requests, served.failures) == (1, 0)
        answer = await agent.ask(X, timeout_ms=60_000)
        assert answer.parameters["served_by"] == "edge"

    held(scenario)


def test_more_than_the_queue_holds_is_refused_and_counts_against_nobody(held, monkeypatch):
    monkeypatch.setattr(instances, "QUEUE", 3)

    async def scenario(agent, served, go_on, threads):
        asked = [asyncio.create_task(agent.ask(X)) for _ in range(4)]
        await until(lambda: served.instances.waiting == 3)
        with pytest.raises(InferenceError, match="wait for this model") as caught:
            await agent.ask(X)
        assert caught.value.retry_after_s >= 1
        go_on.set()
        assert len([await one for one in asked]) == 4
        assert (served.requests, served.failures) == (4, 0)

    held(scenario)


@pytest.mark.parametrize("name", ["timeout", "timeout_ms", "deadline_ms"])
@pytest.mark.parametrize("value", [0, -1, "5", True, float("inf"), float("nan"), [1], {}])
def test_a_deadline_that_is_none_is_refused(tmp_path, name, value):
    agent = Agent(tmp_path)

    async def scenario():
        await agent.slots.activate(models.release(agent.blobs, data=b"fake"), None, None)
        with pytest.raises(MalformedError, match=name):
            await agent.ask(X, **{name: value})
        return agent.slots.health("tiny")

    health = asyncio.run(scenario())
    assert (health.requests, health.newly_refused) == (0, 0)


def test_a_clock_that_began_with_the_first_byte_is_kept(tmp_path):
    agent = Agent(tmp_path)

    async def scenario():
        await agent.slots.activate(models.release(agent.blobs, data=b"fake"), None, None)
        soon, later = (
            oip.InferRequest(inputs=(oip.TensorValue("input", X),), parameters={"timeout_ms": ms}) for ms in (5, 60_000)
        )
        now = asyncio.get_running_loop().time()
        with pytest.raises(LateError, match="was here"):
            await agent.engine.infer("tiny", "", soon, now - 0.01)
        answer = await agent.engine.infer("tiny", "", later, now - 0.01)
        assert answer.parameters["latency_us"] >= 10_000

    asyncio.run(scenario())


def test_a_queued_request_whose_client_has_gone_is_not_run(held):
    async def scenario(agent, served, go_on, threads):
        route = agent.shared.route
        seen = noted(route)
        async with listening(route) as listener:
            stays, goes = await listener.client(), await listener.client()
            await stays.send(post(PATH, JSON, host="localhost"))
            await until(lambda: threads)
            await goes.send(post(PATH, JSON, host="localhost"))
            await until(lambda: served.instances.waiting)
            goes.close()
            await until(lambda: seen[1].gone)
            go_on.set()
            assert (await stays.answer())[0] == 200
            await stays.send(post(PATH, JSON, host="localhost"))
            assert (await stays.answer())[0] == 200
            await until(lambda: served.references == 1)
        assert (len(threads), served.requests, served.failures) == (2, 2, 0)

    held(scenario)

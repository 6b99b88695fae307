"""Local back-pressure, the cloud's own overload, and a dead cloud: three things, told apart."""

from __future__ import annotations

import asyncio
import collections
import time

import numpy as np
import pytest

from edge_agent.errors import InferenceError, LateError, UnreachableError
from edge_agent.serving import run_times
from edge_agent.serving.breaker import Breaker
from edge_agent.serving.cloud import CloudError, HubCloud
from edge_agent.serving.endpoint import WAITING_BYTES, Endpoint, NotAskedError, Question
from fleet.protocol import oip
from fleet.protocol.channel import Audit, ModelEntry, Routing
from tests.edge_agent.serving.test_cloud import Answer, FakeHub
from tests.support import models
from tests.support.agent import Agent

UNSURE = np.zeros((1, 4), np.float32)
REQUEST = oip.InferRequest(inputs=(oip.TensorValue("input", UNSURE),))
ASKED = Question("tiny", 1, REQUEST)
PATIENT = Routing(deadline_ms=60_000)
ANSWER = oip.InferResponse(model_name="tiny", outputs=())


class Gated:
    """A cloud whose calls each wait until the test ends them, by an answer or an error."""

    def __init__(self):
        self.calls: list[asyncio.Future[oip.InferResponse]] = []

    async def infer(self, model, version, request, timeout_s):
        self.calls.append(asyncio.get_running_loop().create_future())
        return await self.calls[-1]

    def end(self, result=ANSWER):
        """End the oldest call that is under way."""
        call = next(call for call in self.calls if not call.done())
        if isinstance(result, Exception):
            call.set_exception(result)
        else:
            call.set_result(result)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


async def settle():
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def begin(endpoint, question=ASKED, routing=PATIENT, left_s=60.0):
    return asyncio.ensure_future(endpoint.ask(question, routing, left_s))


class SlowHub(FakeHub):
    """A healthy hub that takes 20 ms for every answer."""

    def request(self, *arguments, **options):
        time.sleep(0.02)
        return super().request(*arguments, **options)


@pytest.mark.parametrize("clients", [9, 32, 200])
def test_clients_that_all_defer_to_a_healthy_cloud_lose_no_answer_to_the_breaker(tmp_path, clients, monkeypatch):
    monkeypatch.setattr(
        run_times, "SLOW_S", float("inf")
    )  # on a busy machine a run looks slow, and would queue for a thread
    agent = Agent(tmp_path)
    agent.engine.cloud.endpoint = endpoint = Endpoint(HubCloud(SlowHub()))
    outcomes: collections.Counter = collections.Counter()

    async def client():
        for _ in range(5):
            answer = await agent.ask(UNSURE)
            outcomes[answer.parameters["fallback_reason"]] += 1

    async def scenario():
        agent.follow(ModelEntry(release=1, routing=Routing(deadline_ms=20_000)))
        await agent.slots.activate(models.release(agent.blobs, number=1, data=b"fake", threshold=0.6), None, None)
        await asyncio.gather(*(client() for _ in range(clients)))

    asyncio.run(scenario())
    assert outcomes == {"low-confidence": 5 * clients}
    assert endpoint.breaker("tiny").failures == 0


def test_what_finds_no_place_in_its_own_time_is_busy_and_no_failure_of_the_cloud():
    async def scenario():
        cloud = Gated()
        endpoint = Endpoint(cloud, calls=1)
        first = begin(endpoint)
        await settle()
        with pytest.raises(NotAskedError) as caught:
            await endpoint.ask(ASKED, PATIENT, 0.001)
        cloud.end()
        assert await first == ANSWER
        return caught.value.reason, endpoint.breaker("tiny"), len(cloud.calls)

    word, breaker, calls = asyncio.run(scenario())
    assert (word, breaker.failures, calls) == ("cloud-busy", 0, 1)


def test_the_queue_is_bounded_and_served_in_order():
    async def scenario():
        cloud = Gated()
        endpoint = Endpoint(cloud, calls=1, waiting=2)
        asked = [begin(endpoint) for _ in range(3)]
        await settle()
        with pytest.raises(NotAskedError, match="cloud-busy"):
            await endpoint.ask(ASKED, PATIENT, 60.0)
        order = []
        for task in asked:
            task.add_done_callback(lambda task: order.append(asked.index(task)))
        for _ in asked:
            cloud.end()
            await settle()
        return order

    assert asyncio.run(scenario()) == [0, 1, 2]


def test_the_queue_holds_a_bounded_number_of_bytes():
    async def scenario():
        cloud = Gated()
        endpoint = Endpoint(cloud, calls=1)
        large = oip.InferRequest(inputs=(oip.TensorValue("input", np.zeros(WAITING_BYTES, np.uint8)),))
        asked = [begin(endpoint), begin(endpoint, ASKED._replace(request=large))]  # one, however large, may wait
        await settle()
        with pytest.raises(NotAskedError, match="cloud-busy"):
            await endpoint.ask(ASKED, PATIENT, 60.0)
        for _ in asked:
            cloud.end()
            await settle()
        return await asyncio.gather(*asked), endpoint._waiting_bytes

    assert asyncio.run(scenario()) == ([ANSWER, ANSWER], 0)


def test_a_request_whose_caller_gives_up_while_it_waits_costs_no_place():
    async def scenario():
        cloud = Gated()
        endpoint = Endpoint(cloud, calls=1)
        first, second = begin(endpoint), begin(endpoint)
        await settle()
        second.cancel()
        cloud.end()
        await settle()
        third = begin(endpoint)
        await settle()
        cloud.end()
        return await first, await third

    assert asyncio.run(scenario()) == (ANSWER, ANSWER)


def test_no_request_waits_for_a_place_that_cannot_come_in_time():
    """The fastest of late took 1 s: what has less, while all places are taken, is answered locally at once."""

    async def scenario():
        cloud, clock = Gated(), Clock()
        endpoint = Endpoint(cloud, calls=1, now=clock)
        first = begin(endpoint)
        await settle()
        clock.now += 1.0
        cloud.end()
        await first
        second = begin(endpoint, left_s=0.5)  # a place is free: the next call may be faster
        await settle()
        assert len(cloud.calls) == 2
        with pytest.raises(NotAskedError, match="cloud-busy"):
            await endpoint.ask(ASKED, PATIENT, 0.9)
        third = begin(endpoint, left_s=60.0)
        await settle()
        cloud.end()
        await settle()
        cloud.end()
        await asyncio.gather(second, return_exceptions=True)
        return await third

    assert asyncio.run(scenario()) == ANSWER


def test_a_caller_without_patience_says_nothing_about_the_cloud():
    async def scenario():
        cloud = Gated()
        endpoint = Endpoint(cloud)
        for _ in range(5):
            with pytest.raises(LateError):
                await endpoint.ask(ASKED, PATIENT, 0.001)
        for _ in range(5):
            cloud.end()
        await settle()
        return endpoint.breaker("tiny")

    assert asyncio.run(scenario()).failures == 0


def test_a_cloud_slower_than_the_channels_deadline_opens_the_breaker_even_when_it_answers_in_the_end():
    async def scenario():
        cloud, routing = Gated(), Routing(deadline_ms=1, breaker_failures=3)
        endpoint = Endpoint(cloud)
        late = [begin(endpoint, routing=routing) for _ in range(3)]
        while not endpoint.blocked("tiny", routing):
            await asyncio.sleep(0.001)
        for _ in late:
            cloud.end()
        await asyncio.gather(*late)
        return endpoint.blocked("tiny", routing)

    assert asyncio.run(scenario()) == "breaker-open"


def test_requests_that_wait_leave_at_once_when_the_breaker_opens():
    async def scenario():
        cloud, routing = Gated(), Routing(deadline_ms=60_000, breaker_failures=1)
        endpoint = Endpoint(cloud, calls=1)
        asked = [begin(endpoint, routing=routing) for _ in range(4)]
        await settle()
        cloud.end(UnreachableError("the hub is away"))
        return await asyncio.gather(*asked, return_exceptions=True), len(cloud.calls)

    (first, *others), calls = asyncio.run(scenario())
    assert type(first) is UnreachableError
    assert [error.reason for error in others] == ["breaker-open"] * 3 and calls == 1


def test_one_request_probes_an_open_breaker_and_its_answer_closes_it():
    async def scenario():
        cloud, clock = Gated(), Clock()
        routing = Routing(deadline_ms=60_000, breaker_failures=1, breaker_reset_s=5.0)
        endpoint = Endpoint(cloud, now=clock)
        failing = begin(endpoint, routing=routing)
        await settle()
        cloud.end(RuntimeError("what nobody foresaw"))
        await asyncio.gather(failing, return_exceptions=True)
        clock.now += 5.0
        probe, other = begin(endpoint, routing=routing), begin(endpoint, routing=routing)
        await settle()
        refused = await asyncio.gather(other, return_exceptions=True)
        probe.cancel()  # its caller gives up; the probe goes on
        cloud.end()
        await settle()
        return refused[0].reason, endpoint.blocked("tiny", routing)

    assert asyncio.run(scenario()) == ("breaker-open", "")


def test_a_busy_cloud_is_left_alone_as_long_as_it_asks_and_opens_no_breaker():
    async def scenario():
        cloud, clock = Gated(), Clock()
        endpoint = Endpoint(cloud, now=clock)
        asked = [begin(endpoint) for _ in range(5)]
        await settle()
        for _ in range(5):
            cloud.end(CloudError("too busy", status=429, retry_after_s=2.0))
        await asyncio.gather(*asked, return_exceptions=True)
        words = []
        for step in (0.0, 1.9, 0.2):
            clock.now += step
            words.append(endpoint.blocked("tiny", PATIENT))
        return words, endpoint.breaker("tiny").failures

    assert asyncio.run(scenario()) == (["cloud-busy", "cloud-busy", ""], 0)


def test_a_model_that_fails_at_the_cloud_keeps_no_other_from_it():
    async def scenario():
        cloud, routing = Gated(), Routing(deadline_ms=60_000, breaker_failures=1)
        endpoint = Endpoint(cloud)
        failing = begin(endpoint, routing=routing)
        await settle()
        cloud.end(CloudError("broken", status=500))
        await asyncio.gather(failing, return_exceptions=True)
        return endpoint.blocked("tiny", routing), endpoint.blocked("other", routing)

    assert asyncio.run(scenario()) == ("breaker-open", "")


@pytest.mark.parametrize("local", [True, False])
def test_without_a_place_the_local_answer_goes_out_degraded_else_503_with_retry_after(tmp_path, local):
    agent = Agent(tmp_path)
    agent.engine.cloud.endpoint = Endpoint(Gated(), calls=0, waiting=0)

    async def scenario():
        agent.follow(ModelEntry(release=1))
        if local:
            await agent.slots.activate(models.release(agent.blobs, number=1, data=b"fake", threshold=0.6), None, None)
            return await agent.ask(UNSURE)
        with pytest.raises(InferenceError, match="cloud-busy") as caught:
            await agent.ask(UNSURE)
        return caught.value

    found = asyncio.run(scenario())
    if local:
        assert found.parameters["served_by"] == "edge"
        assert (found.parameters["degraded"], found.parameters["fallback_reason"]) == (True, "cloud-busy")
    else:
        assert found.retry_after_s == 0.0  # the application's HTTP answer says one second


def test_audits_take_no_place_of_deferred_requests_and_say_nothing_to_the_breaker(tmp_path):
    """The auditor hangs and the hub then refuses every audit; what is deferred meanwhile is answered all the same."""
    hub, audits = FakeHub(), FakeHub()
    audits.gate.clear()
    audits.answer = Answer(503, {}, b"{}")
    agent = Agent(tmp_path)
    agent.engine.cloud.endpoint = endpoint = Endpoint(HubCloud(hub, calls=1), calls=1)
    agent.auditor._cloud = HubCloud(audits, calls=2)

    async def scenario():
        agent.follow(ModelEntry(release=1, audit=Audit(auditor=7, share_ppm=1_000_000)))
        await agent.slots.activate(models.release(agent.blobs, number=1, data=b"fake", threshold=0.6), None, None)
        async with agent.auditing():
            answers = [await agent.ask(UNSURE) for _ in range(10)]
            audits.gate.set()
        return answers

    answers = asyncio.run(scenario())
    assert {answer.parameters["served_by"] for answer in answers} == {"cloud"}
    assert agent.auditor.dropped == 10
    assert endpoint.breaker("tiny").failures == 0


def test_audits_leave_a_busy_cloud_alone_as_long_as_it_asks(tmp_path):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    agent = Agent(tmp_path)
    agent.cloud.error = CloudError("too busy", status=429, retry_after_s=7.0)
    agent.auditor._sleep = sleep
    agent.engine.cloud.endpoint = None

    async def scenario():
        agent.follow(ModelEntry(release=1, audit=Audit(auditor=7, share_ppm=1_000_000)))
        await agent.slots.activate(models.release(agent.blobs, number=1, data=b"fake"), None, None)
        async with agent.auditing():
            for _ in range(3):
                await agent.ask(UNSURE)

    asyncio.run(scenario())
    assert agent.auditor.dropped == 3
    assert len(slept) >= 1 and set(slept) == {7.0}


def test_the_cloud_is_not_asked_for_a_caller_that_has_gone():
    async def scenario():
        cloud, gone = Gated(), []
        endpoint = Endpoint(cloud, calls=1)
        first, second = begin(endpoint), begin(endpoint, ASKED._replace(gone=lambda: bool(gone)))
        await settle()
        gone.append(True)
        cloud.end()
        await first
        with pytest.raises(LateError, match="gone"):
            await second
        third = begin(endpoint)
        await settle()
        cloud.end()
        await third
        return len(cloud.calls), endpoint.breaker("tiny")

    assert asyncio.run(scenario()) == (2, Breaker())

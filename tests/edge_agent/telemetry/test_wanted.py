"""Samples that the hub asks for: over time, by value, within a budget, where sampling is off, and across a restart."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import NotFoundError, UsageError
from edge_agent.mqtt.command_handler import Actions
from edge_agent.telemetry.local_draws import DrawnRequests
from edge_agent.telemetry.wanted import MOST_PERIOD_S, MOST_SAMPLES, Draw, Want, read_want
from fleet.protocol.channel import ModelEntry, Routing, Sampling
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.messages import SAMPLES_LIMIT, Command, CommandResult, SampleBatch
from fleet.protocol.task import TaskSpec
from fleet.protocol.tensors import from_array
from tests.edge_agent.in_process.test_draws import record
from tests.edge_agent.serving.test_tasks import REGRESSION, release
from tests.support import models
from tests.support.agent import Agent

DAY_S = 86_400.0
WANT = Want(model="tiny", samples=200, max_bytes=1 << 20, until=DAY_S)
VALID = {"model": "tiny", "count": 20, "seconds": 1000.0}


def drawn(draw: Draw, times, valued=lambda at: False, size=lambda _: 1) -> list[float]:
    found: list[float] = []
    for at in times:
        found += draw.due(at, size)
        place = draw.place(at, valued=valued(at))
        if place is not None:
            draw.hold(place, at)
    return found + draw.due(DAY_S, size)


def test_a_stream_gives_samples_of_the_whole_period_and_soon_the_first() -> None:
    """Thirty frames a second: the next 200 of them would be one scene."""
    times = np.arange(0.0, DAY_S, 0.5)
    found = drawn(Draw(WANT, random.Random(1).random), times)
    assert 190 < len(found) <= 200  # the first slots are shorter than the time between two frames
    assert sum(at < 90.0 for at in found) == pytest.approx(16, abs=4)  # a tenth after a thousandth
    assert sum(at > DAY_S / 2 for at in found) == pytest.approx(200 * (1 - 0.5 ** (1 / 3)), abs=3)
    assert max(np.diff(found)) < DAY_S / 20


def test_within_a_slot_every_request_is_drawn_alike() -> None:
    want = Want(model="tiny", samples=1, max_bytes=10, until=10.0)
    counts = Counter(
        at for seed in range(2000) for at in drawn(Draw(want, random.Random(seed).random), np.arange(0.0, 10.0, 1.0))
    )
    assert sum(counts.values()) == 2000 and all(150 < counts[float(at)] < 250 for at in range(10))


def test_every_second_slot_prefers_what_is_worth_a_label() -> None:
    times = np.arange(0.0, DAY_S, 5.0)
    draw = Draw(WANT, random.Random(1).random)
    found = drawn(draw, times, valued=lambda at: at % 50.0 == 0.0)
    late = [at for at in found if at > 3600.0]  # slots of many requests
    assert 0.4 < sum(at % 50.0 == 0.0 for at in late) / len(late) < 0.65


@given(
    st.lists(st.tuples(st.floats(-1e5, 2e5), st.booleans()), max_size=60),
    st.integers(0, 20),
    st.integers(0, 40),
    st.integers(0, 5),
)
def test_no_clock_breaks_the_budget(steps, samples, max_bytes, size) -> None:
    """No more samples and bytes are kept than were asked for, whatever the clock does."""
    draw = Draw(Want(model="m", samples=samples, max_bytes=max_bytes, until=DAY_S), random.Random(0).random)
    found = 0
    for at, valued in steps:
        found += len(draw.due(at, lambda _: size))
        place = draw.place(at, valued=valued)
        if place is not None:
            draw.hold(place, at)
    assert found <= samples and found * size <= max_bytes
    assert draw.want.kept == found


def test_a_device_that_was_off_begins_with_its_first_request() -> None:
    found = drawn(Draw(WANT, random.Random(1).random), np.arange(0.9 * DAY_S, DAY_S, 0.5))
    assert 185 < len(found) <= 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", "many"),
        ("count", -1),
        ("count", float("nan")),
        ("count", True),
        ("seconds", float("inf")),
        ("max_bytes", None),
    ],
)
def test_what_is_no_number_is_refused(name, value) -> None:
    with pytest.raises(UsageError, match=name):
        read_want({**VALID, name: value}, 0.0)


def test_too_much_is_bounded_and_an_older_hub_s_command_is_read() -> None:
    want = read_want({"model": "tiny", "count": 10**9, "seconds": 1e12}, 5.0)
    assert (want.samples, want.until) == (MOST_SAMPLES, 5.0 + MOST_PERIOD_S)
    assert read_want({"model": "tiny", "count": 100}, 0.0).samples == 100


# ---- on the device ----------------------------------------------------------------------------------------


def stored(agent: Agent):
    _, body = agent.samples.batch(SAMPLES_LIMIT)
    return decode_msgpack(body, SampleBatch, limit=SAMPLES_LIMIT).samples if body else ()


async def ready(directory, entry: ModelEntry, **changes) -> Agent:
    agent = Agent(directory)
    agent.follow(entry)
    await agent.slots.activate(models.release(agent.blobs, **changes), None, None)
    return agent


def test_sampling_that_is_off_gives_the_samples_of_an_alarm_and_says_so(tmp_path) -> None:
    async def scenario() -> Agent:
        agent = await ready(tmp_path, ModelEntry(release=1, routing=Routing(cloud=False)))
        answer = agent.sampler.want(VALID)
        assert answer == {
            "model": "tiny",
            "samples": 20,
            "max_bytes": 4 << 20,
            "until": agent.now + 1000.0,
            "sampling": False,
            "redacted": False,
        }
        for x in models.inputs(500):
            agent.now += 2.0
            await agent.ask(x[None])
        await agent.writer.flush()
        return agent

    agent = asyncio.run(scenario())
    found = stored(agent)
    assert 10 <= len(found) <= 20 and {sample.reason for sample in found} <= {"random", "outlying"}
    assert len({from_array(sample.inputs[0]).tobytes() for sample in found}) == len(found)
    spread = [sample.at for sample in found]
    assert max(spread) - min(spread) > 600.0

    async def later() -> None:
        for x in models.inputs(50):
            agent.now += 1.0
            await agent.ask(x[None])
        await agent.writer.flush()

    asyncio.run(later())
    assert len(stored(agent)) == len(found)  # its time is over


def test_uncertain_requests_are_among_them(tmp_path) -> None:
    async def scenario() -> Agent:
        entry = ModelEntry(release=1, routing=Routing(cloud=False, threshold=0.6))
        agent = await ready(tmp_path, entry)
        agent.sampler.want(VALID)
        for number in range(400):
            agent.now += 2.0
            await agent.ask(np.full((1, 4), 0.0 if number % 10 == 0 else 3.0, np.float32) + models.inputs(1) * 0)
        await agent.writer.flush()
        return agent

    reasons = Counter(sample.reason for sample in stored(asyncio.run(scenario())))
    assert reasons["uncertain"] >= 4 and reasons["random"] >= 4


@pytest.mark.parametrize("task", [None, REGRESSION, TaskSpec(name="custom")], ids=["unscored", "regression", "custom"])
def test_any_task_and_applications_in_process_take_part(tmp_path, task) -> None:
    async def scenario() -> Agent:
        agent = Agent(tmp_path)
        agent.follow(ModelEntry(release=1))
        await agent.slots.activate(release(agent, task), None, None)
        agent.sampler.want(VALID)
        drawn = DrawnRequests(agent.slots, agent.policies, agent.recorder, random.Random(1).random)
        for x in models.inputs(300):
            agent.now += 3.0
            drawn.take(record(x[None], requests=30.0))
        await agent.writer.flush()
        return agent

    assert len(stored(asyncio.run(scenario()))) >= 10


def test_what_was_asked_for_survives_a_restart_and_its_budget_goes_on(tmp_path) -> None:
    async def ask(agent: Agent, count: int, seed: int) -> None:
        for x in models.inputs(count, seed=seed):
            agent.now += 2.0
            await agent.ask(x[None])
        await agent.writer.flush()

    async def scenario() -> tuple[int, int]:
        entry = ModelEntry(release=1, routing=Routing(cloud=False))
        agent = await ready(tmp_path, entry)
        agent.sampler.want(VALID)
        await ask(agent, 100, 1)
        first, now = len(stored(agent)), agent.now
        agent.database.close()
        agent = await ready(tmp_path, entry)
        agent.now = now
        await ask(agent, 400, 2)
        return first, len(stored(agent))

    first, both = asyncio.run(scenario())
    assert 0 < first < both <= 20


def test_bytes_bound_it_whatever_the_count(tmp_path) -> None:
    async def scenario() -> Agent:
        agent = await ready(tmp_path, ModelEntry(release=1, routing=Routing(cloud=False)))
        agent.sampler.want({**VALID, "max_bytes": 100})  # a request has 16 bytes of input and 12 of answer
        for x in models.inputs(500):
            agent.now += 2.0
            await agent.ask(x[None])
        await agent.writer.flush()
        return agent

    assert len(stored(asyncio.run(scenario()))) <= 3


def test_a_model_that_is_not_here_and_sampling_that_is_on_are_said(tmp_path) -> None:
    async def scenario() -> None:
        agent = await ready(tmp_path, ModelEntry(release=1, sampling=Sampling(enabled=True)))
        assert agent.sampler.want(VALID)["sampling"] is True
        with pytest.raises(NotFoundError, match="other"):
            agent.sampler.want({**VALID, "model": "other"})

    asyncio.run(scenario())


@pytest.mark.parametrize(("model", "ok"), [("tiny", True), ("other", False)])
def test_the_command_s_answer_says_what_will_be_kept(tmp_path, model, ok) -> None:
    async def scenario() -> CommandResult:
        agent = await ready(tmp_path, ModelEntry(release=1))
        actions = Actions(agent.reports, agent.sampler.want, agent.slots, dict)
        arguments = {**VALID, "model": model}
        actions.handle(Command(id="c", device="d", counter=1, expires_at=0.0, kind="send-samples", args=arguments))
        task = asyncio.create_task(actions.run())
        while not (found := [r for r in agent.spool.after(0, 10) if r.kind == "result"]):
            await asyncio.sleep(0)
        task.cancel()
        return decode_msgpack(found[0].body, CommandResult, limit=1 << 16)

    answer = asyncio.run(scenario())
    assert answer.ok is ok and (answer.data.get("sampling") is False if ok else "other" in answer.detail)

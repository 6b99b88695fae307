"""A release is measured once after it was committed, when the channel or a rollout asks for it."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.errors import ModelLoadError
from edge_agent.mqtt.command_handler import Actions
from edge_agent.telemetry.benchmarks import Measurer, wanted
from edge_agent.telemetry.database import Database
from edge_agent.update.rules.model_state import HeldRelease, ModelState
from fleet.protocol.channel import Bench, Channel, ModelEntry, RolloutRef
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.messages import Benchmark, Command, CommandResult
from tests.support import models
from tests.support.agent import Agent

HELD = HeldRelease(release=2, variant="v", manifest="m")
COMMITTED = ModelState(state="committed", active=HELD)


def rollout(release: int = 2, attempt: int = 1, *, measure: bool = True) -> RolloutRef:
    return RolloutRef(
        id="r-1", attempt=attempt, release=release, from_release=1, share_ppm=1, salt="s", measure=measure
    )


@pytest.mark.parametrize(
    ("state", "entry", "asked"),
    [
        (COMMITTED, ModelEntry(release=2), False),
        (COMMITTED, ModelEntry(release=2, bench=Bench(on_commit=True)), True),
        (COMMITTED, ModelEntry(release=1, rollout=rollout()), True),
        (COMMITTED, ModelEntry(release=1, rollout=rollout(measure=False)), False),
        (COMMITTED, ModelEntry(release=1, rollout=rollout(3)), False),
        (ModelState(state="probation", active=HELD), ModelEntry(release=2, bench=Bench(on_commit=True)), False),
        (ModelState(), ModelEntry(release=2, bench=Bench(on_commit=True)), False),
    ],
)
def test_what_is_asked_for(state, entry, asked):
    assert bool(wanted(state, entry)) is asked


def test_another_attempt_asks_anew():
    first, second = (wanted(COMMITTED, ModelEntry(release=1, rollout=rollout(attempt=n))) for n in (1, 2))
    assert first != second


def test_it_is_measured_once_and_that_is_remembered(tmp_path):
    done: list[tuple[str, int]] = []
    states = {"tiny": ModelState(state="probation", active=HELD)}
    channel = Channel(
        channel="stable", version=1, models={"tiny": ModelEntry(release=2, bench=Bench(on_commit=True, rounds=30))}
    )

    async def measure(model: str, rounds: int) -> None:
        done.append((model, rounds))

    def measurer(database: Database) -> Measurer:
        return Measurer(database, lambda: states, lambda: channel, measure)

    database = Database(tmp_path / "spool.db")
    first = measurer(database)
    asyncio.run(first.step())
    assert done == []
    states["tiny"] = COMMITTED
    for _ in range(2):
        asyncio.run(first.step())
    asyncio.run(measurer(database).step())  # after a restart
    assert done == [("tiny", 30)]


def results(agent: Agent) -> list[CommandResult]:
    records = agent.spool.after(0, 100)
    return [decode_msgpack(r.body, CommandResult, limit=1 << 16) for r in records if r.kind == "result"]


@pytest.fixture
def serving(tmp_path):
    agent = Agent(tmp_path)
    release = models.release(agent.blobs, number=2, cloud=False)
    asyncio.run(agent.slots.activate(release, None, None))
    return agent


def actions(agent: Agent, **options) -> Actions:
    return Actions(agent.reports, agent.sampler.want, agent.slots, dict, **options)


def test_the_command_measures_the_served_release_in_a_child(serving):
    command = Command(
        id="c-1", device="d", counter=1, expires_at=0.0, kind="benchmark", args={"model": "tiny", "rounds": 10}
    )
    result = asyncio.run(actions(serving)._answer(command))
    assert result.ok and (result.id, result.kind) == ("c-1", "benchmark"), result.detail
    assert (result.data["model"], result.data["release"], result.data["rounds"]) == ("tiny", 2, 10)
    assert 0 < result.data["p50_us"] <= result.data["p95_us"]


def test_a_measurement_of_its_own_goes_into_the_spool_whether_it_succeeds_or_not(serving):
    figures = Benchmark(model="tiny", release=2, variant="v", runtime="r", rounds=5, p50_us=1.0, p95_us=2.0)
    answers: list[object] = [figures, ModelLoadError("the child was killed")]

    async def measure(case):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    for _ in range(2):
        asyncio.run(actions(serving, measure=measure).measure("tiny", 5))
    asyncio.run(actions(serving, measure=measure).measure("unknown", 5))
    good, bad, missing = results(serving)
    assert good.ok and good.id == "" and good.kind == "benchmark" and good.data["p95_us"] == 2.0
    assert not bad.ok and bad.detail == "tiny: the child was killed"
    assert not missing.ok and "not served here" in missing.detail


def test_an_answer_that_no_message_takes_is_answered_with_a_failure_that_says_so(serving):
    command = Command(id="c-9", device="d", counter=1, expires_at=0.0, kind="diagnose")
    for said in ("m" * 70_000, "caf\udce9"):
        told = Actions(serving.reports, serving.sampler.want, serving.slots, lambda said=said: {"models": said})
        serving.reports.result(asyncio.run(told._answer(command)))
    large, no_text = results(serving)
    assert (large.id, large.ok, large.data) == ("c-9", False, {}) and "a message takes" in large.detail
    assert (no_text.id, no_text.ok, no_text.data) == ("c-9", False, {}) and "is no text" in no_text.detail


def test_the_command_for_logs_is_answered_with_the_latest_lines(serving):
    command = Command(id="c-1", device="d", counter=1, expires_at=0.0, kind="logs", args={"lines": 3})
    told = asyncio.run(actions(serving, logs=lambda wanted: {"lines": [], "asked": wanted})._answer(command))
    assert told.ok and told.data == {"lines": [], "asked": {"lines": 3}}
    assert not asyncio.run(actions(serving)._answer(command)).ok, "nobody keeps lines"

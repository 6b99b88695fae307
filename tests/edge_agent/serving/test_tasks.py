"""The agent asks the model's task where it compares or summarises answers, and never takes an arg-max itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace

from edge_agent import CAPABILITIES
from edge_agent.ports import InstalledRelease
from edge_agent.serving.scores import score, score_all, score_later
from fleet import tasks
from fleet.protocol.channel import Audit, ModelEntry, RolloutRef, Routing, Sampling
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.messages import SampleBatch
from fleet.protocol.task import NO_CLASS, TaskSpec
from fleet.protocol.telemetry import Window
from tests.support import models
from tests.support.agent import Agent

ALWAYS = Audit(auditor=7, share_ppm=1_000_000)
ROLLOUT = RolloutRef(id="r1", attempt=1, release=2, from_release=1, share_ppm=500_000, salt="s")
REGRESSION = TaskSpec(name="regression", tolerance=0.5)


def release(
    agent: Agent, task: TaskSpec | None, labels: tuple[str, ...] = (), number: int = 1, threshold: float | None = None
) -> InstalledRelease:
    made = models.release(agent.blobs, number=number, data=b"fake" + bytes([number]), threshold=threshold)
    manifest = replace(made.manifest, labels=labels, task=UNSET if task is None else task)
    return replace(made, manifest=manifest)


def audited(agent: Agent, one: InstalledRelease, rows: np.ndarray, entry: ModelEntry | None = None) -> Window:
    """The window of one release after as many requests as there are rows, all of them audited."""

    async def scenario() -> None:
        agent.follow(entry or ModelEntry(release=1, audit=ALWAYS))
        await agent.slots.activate(one, None, None)
        async with agent.auditing():
            for row in rows:
                await agent.ask(row[None])
        await agent.writer.flush()

    asyncio.run(scenario())
    bodies = [r.body for r in agent.spool.after(0, 100) if r.kind == "window"]
    (window,) = [decode_msgpack(body, Window, limit=1 << 20) for body in bodies]
    return window


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def test_the_agent_says_that_it_knows_every_task() -> None:
    known = {name for task in tasks.NAMES for name in tasks.required_by(TaskSpec(name=task))}
    assert known <= set(CAPABILITIES)


@pytest.mark.parametrize(("off", "agree"), [(0.4, 10), (0.6, 0)])
def test_a_regression_agrees_within_its_tolerance(agent: Agent, off: float, agree: int) -> None:
    """The arg-max would have said that both agree."""
    agent.cloud.outputs = lambda x: {"logits": models.answer(x) + np.float32(off)}
    window = audited(agent, release(agent, REGRESSION), models.inputs(10))
    assert (window.counters["audited"], window.counters.get("audit_agree", 0)) == (10, agree)
    assert not any(window.classes) and not any(window.confidence)
    for place, answers in enumerate(models.answer(models.inputs(10)).T.astype(float)):
        found = (window.values[place].low, window.values[place].high)
        assert found == pytest.approx((answers.min(), answers.max()), abs=1e-5)
        assert sum(window.values[place].weights) == 10


def test_a_custom_task_is_compared_as_it_says(agent: Agent) -> None:
    task = TaskSpec(name="custom", agreement="cosine", agree_at=0.99)
    agent.cloud.outputs = lambda x: {"logits": 3 * models.answer(x)}
    window = audited(agent, release(agent, task), models.inputs(10))
    assert window.counters["audit_agree"] == 10


def test_a_multi_label_counts_every_class_that_is_there(agent: Agent) -> None:
    task = TaskSpec(name="multi-label", logits=True)
    rows = models.inputs(10)
    window = audited(agent, release(agent, task, models.LABELS), rows)
    assert window.classes == tuple((models.answer(rows) >= 0).sum(axis=0).tolist())
    assert window.counters["audit_agree"] == sum(window.confidence) == 10


def test_a_model_whose_answers_nobody_scores_is_not_audited(agent: Agent) -> None:
    """As agents of 0.1 do."""
    window = audited(agent, release(agent, None), models.inputs(3))
    assert "audited" not in window.counters and agent.cloud.asked == []


def test_a_pair_is_compared_by_the_task_also_where_the_old_release_named_none(agent: Agent) -> None:
    agent.cloud.outputs = lambda x: {"logits": models.answer(x) + np.float32(0.4)}

    async def scenario() -> None:
        agent.follow(ModelEntry(release=1, audit=ALWAYS))
        one = release(agent, None)
        await agent.slots.activate(one, None, None)
        await agent.slots.activate(release(agent, REGRESSION, number=2), one, ROLLOUT)
        async with agent.auditing():
            for row in models.inputs(4):
                await agent.ask(row[None])
        await agent.writer.flush()

    asyncio.run(scenario())
    (record,) = [r for r in agent.spool.after(0, 100) if r.kind == "window"]
    pairs = decode_msgpack(record.body, Window, limit=1 << 20).pairs
    assert pairs is not None and (pairs.both, pairs.only_old, pairs.only_new, pairs.neither) == (4, 0, 0, 0)


@pytest.mark.parametrize("off", [0.4, 9.0])
def test_a_sample_of_a_regression_has_no_class_and_is_disagreeing_by_its_tolerance(agent: Agent, off: float) -> None:
    agent.cloud.outputs = lambda x: {"logits": models.answer(x) + np.float32(off)}
    sampling = Sampling(enabled=True, random_ppm=0, uncertain_ppm=1_000_000)

    async def scenario() -> None:
        agent.follow(ModelEntry(release=1, sampling=sampling, routing=Routing(threshold=0.5)))
        await agent.slots.activate(release(agent, REGRESSION), None, None)
        await agent.ask(models.inputs(1) * 100, route="cloud")
        await agent.writer.flush()

    asyncio.run(scenario())
    (sample,) = decode_msgpack(agent.samples.batch()[1], SampleBatch, limit=1 << 20).samples
    assert (sample.prediction, sample.cloud_prediction) == (NO_CLASS, NO_CLASS)
    assert sample.reason == ("disagreeing" if off > 0.5 else "outlying")


@pytest.mark.parametrize("task", [TaskSpec(name="custom"), None], ids=["custom", "unscored"])
def test_a_model_whose_answers_nobody_compares_is_sampled_all_the_same(agent: Agent, task: TaskSpec | None) -> None:
    """Its owner labels what it sees, and retrains it; nothing was ever kept of it."""

    async def scenario() -> None:
        agent.follow(ModelEntry(release=1, sampling=Sampling(enabled=True, random_ppm=1_000_000)))
        await agent.slots.activate(release(agent, task), None, None)
        await agent.ask(models.inputs(1))
        await agent.writer.flush()

    asyncio.run(scenario())
    (sample,) = decode_msgpack(agent.samples.batch()[1], SampleBatch, limit=1 << 20).samples
    assert (sample.reason, sample.prediction, sample.cloud_prediction) == ("random", NO_CLASS, None)
    assert sample.inputs and sample.outputs


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (None, models.LABELS),
        (None, ()),
        (REGRESSION, ()),
        (TaskSpec(name="multi-label"), models.LABELS),
        (TaskSpec(name="embedding"), ()),
    ],
    ids=["classification", "unscored", "regression", "multi-label", "embedding"],
)
def test_scores_that_wait_are_those_that_do_not(agent: Agent, task: TaskSpec | None, labels: tuple[str, ...]) -> None:
    made = release(agent, task, labels)
    tables = [models.answer(models.inputs(rows, seed=rows)) for rows in (1, 3)]
    pending = [score_later(made, {"logits": table}) for table in tables]
    score_all(pending)

    def plain(value: Any) -> Any:
        return [item.tolist() if isinstance(item, np.ndarray) else item for part in value for item in part]

    assert [plain(one.get()) for one in pending] == [plain(score(made, {"logits": table})) for table in tables]

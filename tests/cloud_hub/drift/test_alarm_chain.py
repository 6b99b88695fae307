"""From an alarm to a retrain: the hub's command, the device's draws, the upload, labels; any task, sampling off."""

from __future__ import annotations

import asyncio
import random

import pytest
from sqlmodel import select

from cloud_hub.drift.response import follow, respond
from cloud_hub.samples import intake, store
from cloud_hub.store.tables import Alarm, AlarmResponse, DeviceModel, Job, Model, OutboxCommand, SampleRow
from edge_agent.telemetry.local_draws import DrawnRequests
from fleet.protocol.channel import ModelEntry, Routing
from fleet.protocol.messages import SAMPLES_LIMIT
from fleet.protocol.task import TaskSpec
from tests.cloud_hub.drift.test_response import device_row
from tests.edge_agent.in_process.test_draws import record
from tests.edge_agent.serving.test_tasks import REGRESSION, release
from tests.support import models
from tests.support.agent import Agent
from tests.support.hub import HubFixture


def raised(hub: HubFixture) -> tuple[int, dict]:
    """An alarm of model `tiny`, and what device `a` is asked for."""
    with hub.hub.session() as session:
        alarm = Alarm(model="tiny", release=1, at=hub.clock(), status="open", detail={"devices": ["a"]})
        session.add(alarm)
        session.flush()
        number = alarm.id
    respond(hub.hub, "tiny", number)
    with hub.hub.reading() as session:
        return number, session.exec(select(OutboxCommand)).one().args


async def asked(agent: Agent, task: TaskSpec | None, arguments: dict, start: float, *, in_process: bool) -> bytes:
    """Requests over the alarm's time, of which the device keeps what was asked; its upload."""
    agent.now = start
    agent.follow(ModelEntry(release=1, routing=Routing(cloud=False)))
    await agent.slots.activate(release(agent, task, models.LABELS if task is None else ()), None, None)
    assert agent.sampler.want(arguments)["sampling"] is False
    drawn = DrawnRequests(agent.slots, agent.policies, agent.recorder, random.Random(1).random)
    for x in models.inputs(200):
        agent.now += 60.0
        if in_process:
            drawn.take(record(x[None]))
        else:
            await agent.ask(x[None])
    await agent.writer.flush()
    return agent.samples.batch(SAMPLES_LIMIT)[1]


@pytest.mark.parametrize("in_process", [False, True], ids=["over HTTP", "in process"])
@pytest.mark.parametrize(("task", "label"), [(None, 2), (REGRESSION, [1.0, 2.0, 3.0])], ids=["classes", "regression"])
def test_an_alarm_leads_to_a_retrain_by_itself(hub: HubFixture, tmp_path, task, label, in_process) -> None:
    hub.model("tiny")
    made = release(Agent(tmp_path / "other"), task, models.LABELS if task is None else ()).manifest
    needed = (f"task:{task.name}",) if task is not None else ()
    hub.release("tiny", inputs=made.inputs, outputs=made.outputs, labels=made.labels, task=made.task, requires=needed)
    with hub.hub.session() as session:
        owner = session.get_one(Model, "tiny")
        owner.recipe = "examples.digits.recipe"
        owner.policy = {"drift": {"retrain": "on-alarm", "retrain_labels": 8, "samples": 40}}
        session.add(device_row("a"))
        session.flush()
        session.add(DeviceModel(device_id="a", model="tiny", state="committed", active=1))
    alarm, arguments = raised(hub)
    body = asyncio.run(asked(Agent(tmp_path), task, arguments, hub.clock(), in_process=in_process))
    hub.clock.advance(200 * 60.0)
    assert len(intake.take(hub.hub, "a", body, SAMPLES_LIMIT)) >= 12
    follow(hub.hub)
    with hub.hub.reading() as session:
        ids = list(session.exec(select(SampleRow.id)))
        assert "0 of 8 labels" in session.get_one(AlarmResponse, alarm).document["missing"]
        assert session.exec(select(Job)).all() == []
    store.label(hub.hub, dict.fromkeys(ids[:8], label), by="ada", actor="test")
    follow(hub.hub)
    with hub.hub.reading() as session:
        job = session.exec(select(Job)).one()
        assert (job.kind, session.get_one(AlarmResponse, alarm).state) == ("retrain", "retraining")

"""A shadow stage from the hub's order to its end: real updater, process, recorder and ingest; the clocks are turned."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from cloud_hub.ingest.ingestor import Ingestor, Message
from cloud_hub.rollouts import create_rollout
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store.tables import Device as DeviceRow
from cloud_hub.store.tables import RolloutRow
from edge_agent.shadow.process import ChildProcesses
from edge_agent.shadow.runner import Shadows
from fleet.protocol import topics
from fleet.protocol.channel import Probation
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import Envelope
from tests.support.agent import Agent
from tests.support.device import LOOP, Device, claim, follow, listening, publish
from tests.support.hub import HubFixture, make_hub
from tests.support.in_process import InProcessChildren
from tests.support.models import inputs

REQUESTS = 60


def test_a_release_is_compared_on_a_device_and_goes_on_to_its_first_stage(tmp_path: Path) -> None:
    hub = make_hub(tmp_path, start=time.time())
    follow(hub, publish(hub, tmp_path), lambda entry: replace(entry, probation=Probation(seconds=0.0)))
    with listening(hub) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        agent, now = Agent(device.config.dir), [0.0]

        async def pause(seconds: float) -> None:
            now[0] += seconds

        shadows = Shadows(
            ChildProcesses(device.config.dir), agent.recorder.copies, agent.comparisons, now=lambda: now[0], sleep=pause
        )
        children = InProcessChildren(device.config, time.time)
        device.restart(activator=agent.slots, shadows=shadows, children=children)
        device.look()
        LOOP.run(device.updater.judge("tiny"))
        rollout = begin(hub, device, publish(hub, tmp_path, seed=2))
        device.look()
        agent.policies.apply(device.updater.current_channel)
        LOOP.run(compare(agent, shadows))
        assert agent.slots.slot("tiny").active.release.number == 1  # and nobody got another one's answer
        tell(hub, device, agent)
    RolloutEngine(hub.hub).look()
    with hub.hub.reading() as session:
        row = session.get(RolloutRow, rollout)
        verdict = row.progress["shadow"]
        assert (row.state, row.progress["shadowing"], verdict["judgement"]) == ("running", False, "healthy")
        assert (verdict["inputs"], verdict["differ"], verdict["repeats"]) == (REQUESTS, 0, 1)
        assert verdict["slower"] is not None


def begin(hub: HubFixture, device: Device, release: int) -> str:
    with hub.hub.session() as session:
        session.get(DeviceRow, device.enrollment.device_id).info = {"capabilities": ["shadow"]}
    return create_rollout(
        hub.hub,
        model="tiny",
        release=release,
        channel="stable",
        stages=[100],
        guard={"evidence": "install"},
        shadow={"devices": 1, "inputs": REQUESTS},
        actor="test",
    ).id


async def compare(agent: Agent, shadows: Shadows) -> None:
    x = inputs(REQUESTS, seed=9)
    for row in [*x, x[0]]:
        answered = await agent.ask(row[None])
        assert np.isfinite(answered.outputs[0].array).all()
        await asyncio.wait_for(shadows.step(), 600)
    await shadows.follow([])
    await agent.writer.flush()


def tell(hub: HubFixture, device: Device, agent: Agent) -> None:
    """Bring to the hub all that the device has spooled."""
    name = device.enrollment.device_id
    messages = [
        Message(
            topics.uplink(name, "telemetry" if record.kind == "window" else "report"),
            encode_msgpack(
                Envelope(
                    device=name,
                    spool=agent.spool.id,
                    seq=number,
                    base=1,
                    at=record.at,
                    kind=record.kind,
                    body=msgspec.Raw(record.body),
                )
            ),
        )
        for number, record in enumerate(agent.spool.after(0, 1000), 1)
    ]
    Ingestor(hub.hub).take(messages)

"""A start with models whose load hangs or takes long: who serves meanwhile, and what is said."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from edge_agent.agent import Agent
from edge_agent.config import load_config
from edge_agent.errors import InferenceError
from edge_agent.runtimes import Installed
from edge_agent.status_lines import lines
from edge_agent.update.disk.state import StateFile
from edge_agent.update.rules.model_state import ModelState, UpdateTarget
from fleet.protocol import oip
from fleet.protocol.channel import Probation
from tests.support import models
from tests.support.agent_process import enrolled

SLOW = models.onnx_bytes(swap=True)  # the model whose load waits for `goes_on`


@pytest.fixture
def goes_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    event, load_model = threading.Event(), Installed.load

    def hangs(self, model, manifest, variant):
        if model == SLOW:
            event.wait(60)
        return load_model(self, model, manifest, variant)

    monkeypatch.setattr(Installed, "load", hangs)
    return event


@contextlib.asynccontextmanager
async def started(directory: Path, goes_on: threading.Event, settings: str) -> AsyncIterator[Agent]:
    """An agent that has started, without its background tasks."""
    (directory / "agent.toml").write_text(settings)
    agent = Agent(load_config(directory))
    try:
        await agent.updater.start()
        yield agent
    finally:
        goes_on.set()
        agent.cloud.close()
        agent.signer.close()
        agent.database.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


def ask(agent: Agent, model: str):
    tensor = oip.TensorValue("input", models.inputs(1))
    return agent.engine.infer(model, "", oip.InferRequest(inputs=(tensor,), parameters={"route": "edge"}))


def test_a_start_with_a_release_whose_load_hangs_serves_the_one_before_it(tmp_path: Path, goes_on) -> None:
    directory = enrolled(tmp_path / "device")
    good, bad = models.installed(directory), models.installed(directory, number=2, data=SLOW)
    StateFile(directory).put_model("tiny", ModelState(state="committed", active=bad, previous=good))

    async def scenario() -> None:
        async with started(directory, goes_on, "load_wall_s = 2.0\n") as agent:
            document = agent.status()["models"]["tiny"]
            assert (document["serving"], document["reason"]) == (1, "activation-failed")
            assert "was not loaded within 2 s" in document["detail"]

    asyncio.run(scenario())


def test_a_model_that_loads_long_holds_up_no_other_and_serves_when_it_is_loaded(tmp_path: Path, goes_on) -> None:
    directory = enrolled(tmp_path / "device")
    for name, data in (("large", SLOW), ("tiny", models.onnx_bytes())):  # in this order
        held = models.installed(directory, model=name, data=data)
        StateFile(directory).put_model(name, ModelState(state="committed", active=held))

    async def scenario() -> None:
        async with started(directory, goes_on, "start_wait_s = 0.1\n") as agent:
            await until(lambda: agent.updater.loading == ["large"])
            assert (await ask(agent, "tiny")).model_version == "1"
            document = agent.status()
            assert document["models"]["large"]["loading"] and "loading" not in document["models"]["tiny"]
            said = "model large: committed, release 1 (onnx-fp32), is still being loaded"
            assert said in lines(document, directory)
            with pytest.raises(InferenceError, match="'large' is not in service yet"):
                await ask(agent, "large")
            goes_on.set()
            await until(lambda: not agent.updater.loading)
            assert (await ask(agent, "large")).model_version == "1"
            assert agent.status()["models"]["large"]["serving"] == 1

    asyncio.run(scenario())


def test_a_model_that_loads_long_keeps_no_probation_of_another_from_its_end(tmp_path: Path, goes_on) -> None:
    directory = enrolled(tmp_path / "device")
    large = models.installed(directory, model="large", data=SLOW)
    old, new = models.installed(directory), models.installed(directory, number=2)
    StateFile(directory).put_model("large", ModelState(state="committed", active=large))
    StateFile(directory).put_model(
        "tiny",
        ModelState(
            state="probation",
            active=new,
            previous=old,
            target=UpdateTarget(held=new),
            probation=Probation(seconds=3600, requests=1000),
        ),
    )

    async def scenario() -> None:
        settings = "start_wait_s = 0.1\nhealth_tick_s = 0.01\nretry_first_s = 60.0\n"
        async with started(directory, goes_on, settings) as agent:
            await until(lambda: agent.updater.loading == ["large"])
            running = asyncio.ensure_future(agent.updater.run())
            agent.slots.slot("tiny").active.count(failed=True)
            await until(lambda: agent.updater.file.model("tiny").state == "rolled_back")
            assert agent.updater.loading == ["large"]
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    asyncio.run(scenario())

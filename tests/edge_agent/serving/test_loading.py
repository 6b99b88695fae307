"""Loads that end, fail, hang, and come late."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from edge_agent.errors import ActivationError
from edge_agent.serving.loading import Loads
from edge_agent.serving.slots import Slots
from tests.support.fake_runtime import FakeModel, FakeRuntime
from tests.support.models import release

PATIENT_S, HASTY_S = 60.0, 0.02


async def ended(thread: threading.Thread) -> None:
    """Wait for a thread, and for what it posted to the loop and what that called."""
    await asyncio.to_thread(thread.join, 30)
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_load_gives_what_it_returns_or_raises() -> None:
    def fails() -> str:
        raise KeyError("logits")

    async def scenario() -> None:
        loads = Loads[str](PATIENT_S, lambda _: pytest.fail("nothing is late"))
        assert await loads.one("a", lambda: threading.current_thread().name) == "load a"
        with pytest.raises(KeyError):
            await loads.one("a", fails)
        with pytest.raises(ActivationError, match=r"SystemExit\(3\)"):
            await loads.one("a", lambda: sys.exit(3))

    asyncio.run(scenario())


@pytest.mark.parametrize("fails", [False, True])
def test_a_load_that_hangs_is_given_up_and_not_begun_twice(fails: bool) -> None:
    goes_on, begun, late = threading.Event(), [], []

    def hangs() -> str:
        begun.append(1)
        goes_on.wait(30)
        if fails:
            raise RuntimeError("after all")
        return "late"

    def take(result: str) -> None:
        late.append(result)

    async def scenario() -> None:
        loads = Loads[str](HASTY_S, take)
        with pytest.raises(ActivationError, match=r"m was not loaded within 0\.02 s") as caught:
            await loads.one("m", hangs)
        assert "load_wall_s" in caught.value.hint
        with pytest.raises(ActivationError, match="still being loaded"):
            await loads.one("m", hangs)
        assert await loads.one("other", lambda: "served") == "served" and begun == [1]
        (thread,) = [one for one in threading.enumerate() if one.name == "load m"]
        goes_on.set()
        await ended(thread)
        assert late == ([] if fails else ["late"])
        assert await loads.one("m", lambda: "again") == "again"

    asyncio.run(scenario())


def test_no_thread_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuses)
    loads = Loads[str](PATIENT_S, lambda _: None)
    with pytest.raises(ActivationError, match="can't start new thread"):
        asyncio.run(loads.one("m", lambda: "x"))


def test_a_model_that_hangs_keeps_no_other_from_its_start_and_is_closed_when_it_comes_late(tmp_path: Path) -> None:
    goes_on = threading.Event()

    class Hanging(FakeRuntime):
        def load(self, model: bytes, manifest, variant) -> FakeModel:
            if model == b"hangs":
                goes_on.wait(30)
            return super().load(model, manifest, variant)

    runtime = Hanging()
    slots = Slots(lambda variant: runtime, load_wall_s=HASTY_S)

    async def scenario() -> None:
        with pytest.raises(ActivationError, match="model stuck release 1 was not loaded"):
            await slots.activate(release(tmp_path, model="stuck", data=b"hangs"), None, None)
        while slots.names() != ["tiny"]:  # on a busy machine another load may seem to hang, too
            try:
                await slots.activate(release(tmp_path), None, None)
            except ActivationError:
                await asyncio.sleep(0)
        goes_on.set()
        while not any(model.model == b"hangs" and model.closed for model in runtime.loaded):
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert slots.names() == ["tiny"]

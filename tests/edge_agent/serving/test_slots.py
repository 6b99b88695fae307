"""A slot's report on the health of the release that it serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge_agent.errors import ActivationError
from edge_agent.serving.slots import Slots
from tests.support.fake_runtime import FakeModel, FakeRuntime
from tests.support.models import inputs, release


class Timed(FakeRuntime):
    """A runtime whose runs take what the test says, on the clock that the slots read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now, self.takes = 0.0, 0.001
        monkeypatch.setattr("edge_agent.serving.run_times.time.perf_counter", lambda: self.now)

    def load(self, model, manifest, variant):
        loaded = super().load(model, manifest, variant)
        run = loaded.run

        def timed(arrays):
            self.now += self.takes
            return run(arrays)

        loaded.run = timed
        return loaded


def test_health_is_the_nearest_rank_p95_of_runs_since_the_activation(tmp_path: Path, monkeypatch) -> None:
    runtime = Timed(monkeypatch)
    slots = Slots(lambda variant: runtime)
    one, two = release(tmp_path, number=1), release(tmp_path, number=2, data=b"another")
    asyncio.run(slots.activate(one, None, None))
    served = slots.slot("tiny").active
    assert slots.health("tiny").timed == 0  # the warm-up is no request
    for count in range(1, 101):
        runtime.takes = count / 1000
        served.run({"input": inputs(1)})
    health = slots.health("tiny")
    assert health.timed == 100 and health.p95_us == pytest.approx(95_000)
    asyncio.run(slots.activate(two, one, None))
    assert (slots.health("tiny").timed, slots.health("tiny").p95_us) == (0, 0.0)
    asyncio.run(slots.activate(one, None, None))  # back: the old runs are not counted again
    assert slots.health("tiny").timed == 0


def test_a_release_is_warm_before_it_serves(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    slots = Slots(lambda variant: runtime)
    asyncio.run(slots.activate(release(tmp_path), None, None))
    assert [model.runs for model in runtime.loaded] == [1]


@pytest.mark.parametrize("data", [b"failing"])
def test_a_release_that_cannot_be_warmed_up_serves_and_leaves_the_verdict_to_probation(tmp_path: Path, data) -> None:
    runtime = FakeRuntime()
    slots = Slots(lambda variant: runtime)
    asyncio.run(slots.activate(release(tmp_path, data=data), None, None))
    assert slots.names() == ["tiny"] and slots.health("tiny").requests == 0


@pytest.mark.parametrize(
    "error", [ImportError("no libc"), MemoryError(), RuntimeError("no"), KeyError("logits"), TypeError()]
)
@pytest.mark.parametrize("where", ["runtime_for", "load"])
def test_whatever_a_runtime_raises_stops_one_model_and_is_named(tmp_path: Path, where, error, caplog) -> None:
    class Breaking(FakeRuntime):
        def load(self, model, manifest, variant):
            raise error

    def runtime_for(variant):
        if where == "runtime_for":
            raise error
        return Breaking()

    slots = Slots(runtime_for)
    with pytest.raises(ActivationError, match=f"cannot be loaded: {type(error).__name__}") as caught:
        asyncio.run(slots.activate(release(tmp_path), None, None))
    assert caught.value.__cause__ is error and slots.names() == []
    traced = any(record.exc_info for record in caplog.records)
    assert traced == isinstance(error, ImportError | KeyError | TypeError)  # perhaps a mistake of ours


def test_a_warm_up_may_fail_in_any_way(tmp_path: Path, monkeypatch) -> None:
    def unready(model, arrays):
        raise TypeError("no run")

    monkeypatch.setattr(FakeModel, "run", unready)
    slots = Slots(lambda variant: FakeRuntime())
    asyncio.run(slots.activate(release(tmp_path), None, None))
    assert slots.names() == ["tiny"]

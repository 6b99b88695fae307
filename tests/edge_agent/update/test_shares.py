"""Several models that are fetched at once share what belongs to the device: rate, day's budget and disk."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from edge_agent.config import AgentConfig
from edge_agent.errors import UpdateError
from edge_agent.ports import ReleaseHealth
from edge_agent.update.disk.state import Looked
from edge_agent.update.disk.store import Store
from edge_agent.update.download.shares import Shares
from edge_agent.update.messages import Failed, LookResult, Offer, Ready, StepDone, StepProgress
from edge_agent.update.rules.install_window import UNLIMITED
from edge_agent.update.rules.model_state import HeldRelease, ModelState, Rejected, UpdateTarget
from edge_agent.update.updater import Updater
from fleet.protocol.channel import Channel, Fetching, ModelEntry
from fleet.protocol.manifest import encode_manifest
from tests.support.device import LOOP, FakeReporter
from tests.support.models import onnx_bytes, release
from tests.support.updaters import make_updater


def held(number: int, model: str) -> HeldRelease:
    return HeldRelease(release=number, variant="v", manifest=hashlib.sha256(f"{model}{number}".encode()).hexdigest())


class Children:
    """Implements `Children`: offers `targets`, and does what `do(step)` yields; `steps` are what was asked."""

    def __init__(self, targets: dict[str, HeldRelease], do, **fetching) -> None:
        models = {model: ModelEntry(release=target.release) for model, target in targets.items()}
        channel = Channel(channel="stable", version=1, models=models, fetching=Fetching(**fetching))
        offers = [Offer(model=model, target=UpdateTarget(held=target)) for model, target in targets.items()]
        self.messages, self.do, self.steps = [LookResult(looked=Looked(channel=channel)), *offers, Ready()], do, []

    async def start(self):
        return self

    async def look(self, asked):
        return [Ready()] if asked.steps_only else self.messages

    async def step(self, step):
        self.steps.append(step)
        async for message in self.do(step):
            yield message

    async def close(self) -> None:
        pass

    async def trial(self, held) -> tuple[str, ...]:
        return ()


class Activator:
    """Remembers what serves."""

    def __init__(self) -> None:
        self.serving: dict[str, int] = {}

    async def activate(self, release, previous, pairing) -> None:
        self.serving[release.model] = release.number

    async def deactivate(self, model) -> None:
        pass

    def health(self, model) -> ReleaseHealth:
        return ReleaseHealth(requests=0, failures=0)


class DayBudget:
    """Implements `install_window.DayBudget`."""

    def __init__(self, limit: int) -> None:
        self.limit = self.rest = limit

    def left(self) -> int:
        return max(0, self.rest)

    def renews_at(self) -> float:
        return 86_400.0

    def count(self, *, down: int = 0) -> None:
        self.rest -= down


def updater(tmp_path: Path, children: Children, **options) -> Updater:
    config = AgentConfig(dir=tmp_path / "agent", disk_reserve_bytes=0)
    config.dir.mkdir()
    return make_updater(config, "dev", "stable", Activator(), FakeReporter(), children, kinds=("onnx",), **options)


def look(made: Updater) -> str:
    """One look; the word of what went wrong."""
    try:
        LOOP.run(made.look())
    except UpdateError as error:
        return error.reason
    return ""


async def fail(step):
    yield Failed(reason="fetch-failed", detail="stop here")


def test_models_that_stay_as_they_are_take_no_share(tmp_path: Path) -> None:
    children = Children({model: held(2, model) for model in "abcd"}, fail, max_bytes_per_s=400_000)
    made = updater(tmp_path, children, budget=DayBudget(8_000_000))
    for model in "abc":  # tried before, and not tried again
        state = ModelState(state="rolled_back", active=held(1, model), rejected=(Rejected(2, "v", "", 0),))
        made.file.put_model(model, state)
    assert look(made) == "fetch-failed"
    (step,) = children.steps
    assert (step.model, step.max_bytes_per_s, step.allowance, step.patch_s) == ("d", 400_000, 8_000_000, 300.0)


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_however_many_models_together_they_take_no_more_than_the_budget_and_the_rate(tmp_path: Path, count) -> None:
    """Some are slow: those that begin meanwhile get nothing of what was promised to them."""
    running: dict[str, int] = {}
    rates: list[int] = []
    over = asyncio.Event()

    async def spend(step):
        running[step.model] = step.max_bytes_per_s
        rates.append(sum(running.values()))
        if len(children.steps) == count:
            over.set()
        if step.model in "bcd":
            await over.wait()
        del running[step.model]
        yield StepProgress(share=0.5, received=step.allowance // 2)
        yield StepProgress(share=1.0, received=step.allowance)
        yield Failed(reason="budget-spent", detail="all of it")

    models = "abcdefgh"[:count]
    children = Children({model: held(1, model) for model in models}, spend, max_bytes_per_s=400_000)
    budget = DayBudget(10_000_000)
    assert look(updater(tmp_path, children, budget=budget)) == "budget-spent"
    assert len(children.steps) == count and 0 <= budget.rest < budget.limit / 2
    assert max(rates) <= 400_000 and children.steps[0].max_bytes_per_s == 400_000 // min(4, count)
    assert all(step.allowance > 0 for step in children.steps)


def test_a_model_that_nobody_expected_does_not_stand_still(tmp_path: Path) -> None:
    shares = Shares(Store(tmp_path), UNLIMITED, look_s=900.0)
    shares.expect(1)
    with (
        shares.of("a", "fetch", held(1, "a"), 400_000) as first,
        shares.of("b", "fetch", held(1, "b"), 400_000) as more,
    ):
        assert (first.step.max_bytes_per_s, more.step.max_bytes_per_s) == (400_000, 100_000)
    with shares.of("b", "fetch", held(1, "b"), 400_000) as alone, shares.of("a", "verify", held(1, "a"), 400_000):
        assert alone.step.max_bytes_per_s == 400_000


class Disk:
    """Two models of 200 kB each, and a device on whose disk both fit one at a time, but not together."""

    SIZE, RESERVE = 320_000, 20_000

    def __init__(self, tmp_path: Path) -> None:
        self.size, self.hub = self.SIZE, tmp_path / "hub"
        made = {model: release(self.hub, data=onnx_bytes() + note(model)) for model in "ab"}
        self.files = {model: release.variant.blob for model, release in made.items()}
        manifests = {model: encode_manifest(release.manifest) for model, release in made.items()}
        self.children = Children({}, self.fetch)
        self.updater = updater(tmp_path, self.children)
        store = self.updater.store
        store._reserve, store._free = self.RESERVE, self.free
        self.least = self.size
        self.children.messages = Children(
            {
                m: HeldRelease(release=1, variant=made[m].variant.name, manifest=store.put_manifest(manifests[m]))
                for m in "ab"
            },
            self.fetch,
        ).messages

    def free(self, folder: Path) -> int:
        return self.size - sum(path.stat().st_size for path in folder.iterdir())

    async def fetch(self, step):
        """Fetch as the child does: a bit of each blob at a time, so that both models are under way at once."""
        store = self.updater.store
        manifest = store.manifest(step.held.manifest)
        for blob in manifest.blobs((manifest.variant(step.held.variant),)):
            data, part = (self.hub / blob.sha256).read_bytes(), store.part(blob)
            while step.step == "fetch" and not store.has(blob):
                here = part.stat().st_size if part.exists() else 0
                if here == blob.size:
                    break
                with part.open("ab") as file:
                    file.write(data[here : here + 10_000])
                self.least = min(self.least, self.free(store.blobs))
                await asyncio.sleep(0)
            if step.step == "verify" and not store.has(blob):
                store.accept(blob)
        yield StepDone()


def note(model: str) -> bytes:
    """The model's documentation (field 6), of 200,000 bytes."""
    return b"\x32\xc0\x9a\x0c" + model.encode().ljust(200_000, b"\0")


def test_of_two_models_that_fit_one_at_a_time_one_is_installed_and_the_reserve_stays(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    assert look(disk.updater) == "disk-full"
    states = {model: disk.updater.file.model(model) for model in "ab"}
    assert (states["a"].state, states["b"].state, states["b"].reason) == ("probation", "idle", "disk-full")
    needed = disk.RESERVE + sum(blob.size for blob in disk.files.values())
    assert "of those under way" in states["b"].detail and f"{disk.size} are free" in states["b"].detail
    assert needed - disk.size <= int(states["b"].hint.split()[1]) <= needed - disk.size + 10_000  # and small files
    assert disk.least >= disk.RESERVE
    disk.size += 200_000
    assert look(disk.updater) == ""
    assert disk.updater._activator.serving == {"a": 1, "b": 1}


def test_halves_that_fill_the_disk_do_not_keep_both_models_out_for_ever(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    store = disk.updater.store
    for model, blob in disk.files.items():
        store.part(blob).write_bytes((disk.hub / blob.sha256).read_bytes()[: 140_000 if model == "a" else 150_000])
    assert look(disk.updater) == "disk-full"
    assert disk.updater._activator.serving == {"a": 1} and disk.least >= disk.RESERVE
    assert not list(store.blobs.glob("*.part"))

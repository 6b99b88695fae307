"""Several models on one device: one whose fetch hangs, fails or dies neither holds up nor disturbs another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.errors import UpdateError
from edge_agent.ports import ReleaseHealth
from edge_agent.update.disk.store import Store
from edge_agent.update.messages import Failed
from edge_agent.update.worker.client import ProcessChildren
from fleet.protocol.channel import Channel, ModelEntry, Probation
from tests.support.device import LOOP, Device, claim, listening, publish
from tests.support.hub import HubFixture
from tests.support.locks import Waiting

POLICY = Probation(seconds=1e9, requests=50)
MODELS = ("bad", "good", "other")


async def hang(child, step):
    await asyncio.Event().wait()
    yield


async def fail(child, step):
    yield Failed(reason="fetch-failed", detail="the blob is not there")


async def die(child, step):
    await child.close()
    async for message in child.step(step):
        yield message


class Troubled(ProcessChildren):
    """Real children, whose fetch of one release of the model `bad` goes as `trouble` says."""

    def __init__(self, directory: Path, trouble: Callable) -> None:
        super().__init__(directory)
        self.trouble, self.manifest, self.started = trouble, "", 0

    async def start(self):
        self.started += 1
        return Child(self, await super().start())


class Child:
    def __init__(self, children: Troubled, inner) -> None:
        self._children, self._inner = children, inner
        self.look, self.close = inner.look, inner.close

    def step(self, step):
        bad = step.held.manifest == self._children.manifest
        return self._children.trouble(self._inner, step) if bad else self._inner.step(step)


def follow(hub: HubFixture, releases: dict[str, int]) -> None:
    models = {model: ModelEntry(release=number, probation=POLICY) for model, number in releases.items()}
    change = lambda c: Channel(channel="stable", version=c.version, models=models)  # noqa: E731
    hub.hub.publisher.change_channel("stable", change, actor="test")


@pytest.fixture
def device(hub: HubFixture, tmp_path: Path):
    """A device with three models at release 1 and a channel that wants release 2 of each."""
    follow(hub, {model: publish(hub, tmp_path, seed=n, model=model) for n, model in enumerate(MODELS, 1)})
    with listening(hub) as url:
        made = Device(url, claim(hub), tmp_path / "agent")
        made.look()
        assert made.activator.serving == dict.fromkeys(MODELS, 1)
        for model in MODELS:
            made.commit(model)
        follow(hub, {model: publish(hub, tmp_path, seed=n, model=model) for n, model in enumerate(MODELS, 11)})
        yield made


def troubled(device: Device, hub: HubFixture, trouble: Callable) -> Troubled:
    children = Troubled(device.config.dir, trouble)
    key = next(i.key for i in hub.hub.objects.list("tuf/targets/models/bad") if i.key.endswith(".2.json"))
    children.manifest = key.rsplit("/", 1)[1].split(".")[0]
    device.restart(children=children)
    device.start()
    return children


def test_a_fetch_that_hangs_holds_up_no_other_model(device: Device, hub: HubFixture) -> None:
    troubled(device, hub, hang)

    async def until_the_others_serve() -> bool:
        looking = asyncio.ensure_future(device.updater.look())
        async with asyncio.timeout(60):
            while {device.state(model).state for model in ("good", "other")} != {"probation"}:
                assert not looking.done()
                await asyncio.sleep(0.02)
        assert device.state("bad").state == "fetching"
        device.activator.says = ReleaseHealth(requests=1000, failures=0)
        await device.updater.judge("good")  # also what follows goes on beside the fetch
        assert device.state("good").state == "committed"
        device.updater.wake("a notice")
        return await looking

    assert LOOP.run(until_the_others_serve()) is True
    assert device.activator.serving == {"bad": 1, "good": 2, "other": 2}
    assert (device.state("bad").state, device.state("bad").reason) == ("idle", "overtaken")


@pytest.mark.parametrize(("trouble", "reason"), [(fail, "fetch-failed"), (die, "interrupted")])
def test_a_fetch_that_fails_disturbs_no_other_model_and_is_made_good(device, hub, trouble, reason) -> None:
    children = troubled(device, hub, trouble)
    with pytest.raises(UpdateError):
        device.look()
    assert device.activator.serving == {"bad": 1, "good": 2, "other": 2}
    assert (device.state("bad").state, device.state("bad").reason) == ("idle", reason)
    children.trouble = lambda child, step: child.step(step)
    device.look()
    assert device.activator.serving == dict.fromkeys(MODELS, 2)


def test_one_model_needs_one_child(device: Device, hub: HubFixture) -> None:
    children = troubled(device, hub, fail)
    follow(hub, {"bad": 1, "good": 1, "other": 2})
    device.look()
    assert children.started == 1 and device.activator.serving == {"bad": 1, "good": 1, "other": 2}


def test_a_download_that_waits_outlives_the_commits_of_other_models(device: Device, hub: HubFixture) -> None:
    parts = []

    async def break_off(child, step):
        manifest = device.updater.store.manifest(step.held.manifest)
        parts[:] = [device.updater.store.part(manifest.variant(step.held.variant).blob)]
        if not parts[0].exists():
            parts[0].write_bytes(b"the first bytes")
        yield Failed(reason="unreachable", detail="the hub is gone")

    troubled(device, hub, break_off)
    for _ in range(2):  # what the channel does not want is removed at each look
        with pytest.raises(UpdateError, match="the hub is gone"):
            device.look()
        device.commit("good")
        assert device.state("bad").state == "idle" and parts[0].read_bytes() == b"the first bytes"


def test_without_a_further_child_a_model_waits_and_is_not_stuck(device: Device, hub, monkeypatch) -> None:
    children = troubled(device, hub, hang)
    children.trouble = lambda child, step: child.step(step)
    start = children.start

    async def once():
        if children.started:
            raise OSError(11, "no more processes")
        return await start()

    monkeypatch.setattr(children, "start", once)
    with pytest.raises(UpdateError, match="no more processes") as caught:
        device.look()
    assert caught.value.reason == "interrupted" and "memory or process" in caught.value.hint
    assert sorted(device.activator.serving.values()) == [1, 1, 2]
    assert {device.state(model).state for model in MODELS} == {"idle", "probation"}
    monkeypatch.undo()
    device.look()
    assert device.activator.serving == dict.fromkeys(MODELS, 2)


class OneFile:
    """A hub in whose first answer to each blob nothing comes until somebody else wants it or waits for it."""

    def __init__(self, app, store: Store) -> None:
        self._app, self._waiting = app, Waiting(store)
        self.asked: Counter[str] = Counter()

    async def __call__(self, scope, receive, send) -> None:
        path = scope.get("path", "")
        if path.startswith("/blobs/"):
            self.asked[path] += 1
            async with asyncio.timeout(60):
                while self.asked[path] == 1 and not self._waiting.seen():
                    await asyncio.sleep(0.005)
        await self._app(scope, receive, send)


def test_a_file_that_two_models_share_is_fetched_once_and_serves_both(hub: HubFixture, tmp_path: Path) -> None:
    follow(hub, {model: publish(hub, tmp_path / model, seed=1, model=model) for model in ("good", "other")})
    seen: list[OneFile] = []

    def around(app):
        seen.append(OneFile(app, Store(tmp_path / "agent")))
        return seen[0]

    with listening(hub, around=around) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        device.look()
    assert device.activator.serving == {"good": 1, "other": 1}
    assert len(seen[0].asked) >= 2 and set(seen[0].asked.values()) == {1}
    assert {path.suffix for path in device.config.blobs.iterdir()} == {""}

"""A device that is enrolled with a real hub over loopback; its updater runs real children, forks of a warm process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cloud_hub.app import create_app
from cloud_hub.identity.ca import pin
from cloud_hub.identity.first_contact import FIRST_ROOT
from cloud_hub.store.tables import Model
from edge_agent import runtimes
from edge_agent.config import AgentConfig
from edge_agent.identity.enroll import enroll
from edge_agent.ports import ReleaseHealth
from edge_agent.update.updater import Updater
from fleet.protocol.channel import Channel, ModelEntry, Probation
from fleet.protocol.manifest import encode_manifest
from tests.support.hub import HubFixture
from tests.support.models import onnx_bytes, release
from tests.support.server import serving
from tests.support.updaters import make_updater
from tests.support.warm import WarmChildren

LOOP = asyncio.Runner()  # one loop for all, since a device outlives one call


@contextlib.contextmanager
def enrolled_with(hub: HubFixture, directory: Path) -> Iterator[Path]:
    """The directory of a device `cam-1` that `hub` knows; the hub answers as long as the block."""
    with listening(hub) as url:
        enroll(url, claim(hub), directory, name="cam-1", agent="test", hardware={})
        yield directory


class FakeActivator:
    """Remembers what serves; `health` is what the test says."""

    def __init__(self) -> None:
        self.serving: dict[str, int] = {}
        self.shadows: dict[str, int | None] = {}
        self.says = ReleaseHealth(requests=0, failures=0)

    async def activate(self, release, previous, pairing) -> None:
        release.open_blob(release.variant.blob.sha256)
        self.serving[release.model] = release.number
        self.shadows[release.model] = previous.number if previous else None

    async def deactivate(self, model: str) -> None:
        self.serving.pop(model, None)

    def health(self, model: str) -> ReleaseHealth:
        return self.says


class FakeReporter:
    """Keeps every report."""

    def __init__(self) -> None:
        self.models: list[Any] = []

    def model(self, report) -> None:
        self.models.append(report)

    def agent(self, report) -> None:
        self.models.append(report)

    def states(self) -> list[str]:
        return [report.state for report in self.models]


class Device:
    """An enrolled agent directory and its updater; `restart` is what a killed agent does next."""

    def __init__(self, url: str, token: str, directory: Path, name: str = "dev-1") -> None:
        self.config = AgentConfig(dir=directory, hub=url, disk_reserve_bytes=0)
        self.enrollment = enroll(url, token, directory, name=name, agent="test", hardware={})
        self.now = [0.0]
        self.restart()

    def restart(self, **changes: Any) -> Updater:
        self.activator, self.reporter = changes.pop("activator", None) or FakeActivator(), FakeReporter()
        options: dict[str, Any] = {
            "kinds": tuple(runtimes.kinds()),
            "clock": lambda: self.now[0],
            **changes,
        }
        children = options.pop("children", None) or WarmChildren(self.config.dir)
        self.updater = make_updater(
            self.config,
            self.enrollment.device_id,
            self.enrollment.channel,
            self.activator,
            self.reporter,
            children,
            **options,
        )
        return self.updater

    def look(self) -> bool:
        return LOOP.run(self.updater.look())

    def start(self) -> None:
        LOOP.run(self.updater.start())

    def commit(self, model: str = "tiny") -> None:
        self.activator.says = ReleaseHealth(requests=1000, failures=0)
        LOOP.run(self.updater.judge(model))
        self.activator.says = ReleaseHealth(requests=0, failures=0)

    def state(self, model: str = "tiny"):
        return self.updater.file.model(model)


def publish(hub: HubFixture, folder: Path, *, seed: int = 1, model: str = "tiny", **changes: Any) -> int:
    """Publish a tiny ONNX release; another `seed` gives other bytes with the same answers."""
    with hub.hub.session() as session:
        if session.get(Model, model) is None:
            session.add(Model(name=model, created_at=hub.clock()))
    blobs = folder / f"release-{seed}"
    note = b"%d" % seed  # the model's documentation, field 6
    made = release(blobs, data=onnx_bytes() + b"\x32%c%s" % (len(note), note), cloud=True, **changes)
    for path in blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{path.name}", path.read_bytes())
    return hub.hub.publisher.publish_release(model, encode_manifest(made.manifest), actor="test").number


def follow(hub: HubFixture, number: int, change: Callable[[ModelEntry], ModelEntry] = lambda e: e) -> None:
    """Make `number` the default of the channel `stable`."""
    entry = change(ModelEntry(release=number, probation=Probation(seconds=1e9, requests=50)))
    changed = lambda c: Channel(channel="stable", version=c.version, models={"tiny": entry})  # noqa: E731
    hub.hub.publisher.change_channel("stable", changed, actor="test")


def claim(hub: HubFixture) -> str:
    """A claim token for the channel `stable`."""
    root = hub.hub.objects.get(FIRST_ROOT).data
    return hub.token("claim", channel="stable", pin=pin(root, hub.hub.authority.ca_pem))


@contextlib.contextmanager
def listening(hub: HubFixture, *, tls: bool = False, around: Callable[[Any], Any] = lambda app: app) -> Iterator[str]:
    """The hub on a real socket, with its own certificate if asked; gives its URL. `around` may wrap its app."""
    config = hub.hub.config
    files = {"ssl_certfile": str(config.server_certificate), "ssl_keyfile": str(config.server_key)} if tls else {}
    with serving(around(create_app(hub.hub)), **files) as (where, _loop):
        yield f"{'https' if tls else 'http'}://{where}"

"""A device that the hub moved to another channel stays there, whoever does not say so again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.responses import Response

from cloud_hub.app import create_app
from cloud_hub.store import tables
from edge_agent.main import main
from edge_agent.update.disk.state import read_state
from fleet.client import Client
from fleet.client.bundle import Bundler
from fleet.client.transport import HttpTransport
from fleet.protocol.channel import Channel, ModelEntry
from tests.support.device import Device, claim, follow, publish
from tests.support.hub import HubFixture
from tests.support.server import serving


class Busy:
    """The hub's application; while `silent`, `/device/me` answers 503."""

    def __init__(self, hub: HubFixture) -> None:
        self.app, self.silent = create_app(hub.hub), False

    async def __call__(self, scope, receive, send) -> None:
        refuses = self.silent and scope["path"] == "/device/me"
        await (Response(status_code=503) if refuses else self.app)(scope, receive, send)


def move(hub: HubFixture, number: int) -> None:
    """Put the device on `beta`, a channel that names release `number`."""
    change = lambda c: Channel(channel="beta", version=c.version, models={"tiny": ModelEntry(release=number)})  # noqa: E731
    hub.hub.publisher.change_channel("beta", change, actor="test")
    with hub.hub.session() as session:
        device = session.get(tables.Device, "dev-1")
        assert device is not None
        device.channel = "beta"


@pytest.fixture
def busy(hub: HubFixture):
    app = Busy(hub)
    with serving(app) as (where, _):
        yield app, f"http://{where}"


@pytest.fixture
def device(hub: HubFixture, busy, tmp_path: Path) -> Device:
    """It has followed `stable`, with release 1, and then `beta`, with release 2."""
    follow(hub, publish(hub, tmp_path))
    device = Device(busy[1], claim(hub), tmp_path / "agent")
    device.look()
    device.commit()
    move(hub, publish(hub, tmp_path, seed=2))
    device.look()
    device.commit()
    assert device.activator.serving == {"tiny": 2}
    return device


def test_a_hub_that_does_not_answer_this_moves_nobody_back(device: Device, busy) -> None:
    busy[0].silent = True
    device.look()
    assert device.activator.serving == {"tiny": 2} and device.updater.status()["channel"] == "beta"


def test_nor_does_a_restart_or_a_channel_that_is_not_there(device: Device, hub, busy, monkeypatch) -> None:
    state = device.updater.file
    state.keep_looked(type(state.state.looked)(channel_name="beta"))  # as after a look that found no such channel
    device.restart()
    busy[0].silent = True
    device.look()
    assert device.updater.status()["channel"] == "beta" and device.state().active.release == 2


def test_a_bundle_is_of_the_channel_that_the_device_was_moved_to(device: Device, hub, busy, tmp_path, capsys) -> None:
    directory = device.config.dir
    (directory / "agent.toml").write_text("disk_reserve_bytes = 0\n")
    move(hub, publish(hub, tmp_path, seed=3))
    reader = Client(HttpTransport(busy[1]), hub.token("mirror"))
    for name in ("stable", "beta"):
        Bundler(reader.static, reader.static_piece, tmp_path / name).write(name)

    def install(name: str) -> tuple[int, dict]:
        code = main(["install", str(tmp_path / name), "--dir", str(directory), "--json"])
        return code, json.loads(capsys.readouterr().out)

    for _ in range(2):  # the second time, too: the first has not made it forget the channel
        code, outcome = install("stable")
        assert (code, outcome["reason"]) == (1, "not-found"), outcome
        assert "'beta'" in outcome["detail"]
        followed = read_state(directory).looked.channel
        assert followed is not None and followed.channel == "beta"
    assert read_state(directory).models["tiny"].active.release == 2
    code, outcome = install("beta")
    assert code == 0 and read_state(directory).models["tiny"].active.release == 3, outcome

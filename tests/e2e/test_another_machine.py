"""A device on another machine comes online by the commands of its page, typed as they stand there.

Hub and device are in network namespaces of their own, with a link between them and nothing else in common.
Containers may forbid that: then the test is skipped with what is refused, as `tests/faults/test_packets.py` is.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.netns import DEVICE, HUB, End, NotPermittedError, Weather, joined
from tests.support.require import require

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "device-on-another-machine.md"
VARIABLES = f"EDGELOOP_PASSPHRASE=secret PYTHONPATH={ROOT} PATH={Path(sys.executable).parent}:$PATH"
WAIT_S = 120.0


def commands(number: int) -> list[str]:
    """The commands of one section of the page."""
    section = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[number]
    assert section.startswith(f"{number}. ")
    return [line.removeprefix("$ ") for line in section.splitlines() if line.startswith("$ ")]


class Machine:
    """A machine where commands are typed."""

    def __init__(self, end: End, folder: Path) -> None:
        self._end, self.folder = end, folder

    def run(self, command: str) -> str:
        done = self._end.say({"run": f"export {VARIABLES} XDG_CONFIG_HOME={self.folder}; {command}"})
        assert done["code"] == 0, f"{command}\n{done['out']}{done['err']}"
        return str(done["out"])

    def start(self, command: str) -> Path:
        log = self.folder / f"{command.split()[0]}.log"
        self._end.say({"start": f"env {VARIABLES} {command}", "log": str(log)})
        return log


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """The hub's machine and the device's; both know the hub by its name."""
    require("mosquitto", "mosquitto")
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost\n{HUB} hub.example\n{DEVICE} kiosk.example\n")
    folders = [tmp_path / "hub", tmp_path / "device"]
    for folder in folders:
        folder.mkdir()
    roles = [("shell", str(folder), str(tmp_path / "hosts")) for folder in folders]
    try:
        with joined(Weather(), 0, roles[0], roles[1]) as (_, hub, device):
            yield Machine(hub, folders[0]), Machine(device, folders[1])
    except NotPermittedError as error:
        pytest.skip(str(error))


def until(look: Callable[[], Any], log: Path) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, log.read_text()


def test_a_device_comes_online_by_the_page_alone(machines: tuple[Machine, Machine]) -> None:
    hub, device = machines
    (init,) = commands(1)
    said = hub.run(init)
    assert "warning" not in said
    (serve,) = commands(2)
    hub_log = hub.start(serve)
    login, channel, token = commands(3)
    until(lambda: hub.run("curl -sk https://hub.example:8080/readyz || true").startswith('{"status":"ok"'), hub_log)
    assert "devices are told hub.example:8883" in hub_log.read_text() and "warning" not in hub_log.read_text()
    hub.run(login)
    hub.run(channel)
    (claim,) = re.findall(r"el1\.\S+", hub.run(token))
    enroll, run = commands(4)
    device.run(enroll.replace("el1.…", claim))
    agent_log = device.start(run)
    status, listing = commands(5)
    document = until(lambda: (found := json.loads(device.run(f"{status} --json"))).get("online") and found, agent_log)
    assert (document["broker"]["address"], document["broker"]["state"]) == ("hub.example:8883", "connected")
    assert "broker: hub.example:8883, connected" in device.run(status)

    def known() -> bool:
        (found,) = json.loads(hub.run(f"{listing} --json"))["items"]
        return (found["id"], bool(found["online"])) == ("kiosk-1", True)

    until(known, agent_log)


def test_a_broker_on_loopback_is_said_on_hub_and_device(machines: tuple[Machine, Machine]) -> None:
    hub, device = machines
    (init,) = commands(1)
    hub.run(init)
    with (hub.folder / "hub" / "hub.toml").open("a") as settings:
        settings.write('[broker]\nhost = "127.0.0.1"\n')
    (serve,) = commands(2)
    hub_log = hub.start(serve)
    until(lambda: hub.run("curl -sk https://hub.example:8080/readyz || true").startswith('{"status":"ok"'), hub_log)
    assert "warning: devices on other machines cannot reach 127.0.0.1 (the broker)" in hub_log.read_text()
    login, channel, token = commands(3)
    hub.run(login)
    hub.run(channel)
    told = hub.run(f"{token} 2>&1")
    assert "warning: devices on other machines cannot reach 127.0.0.1 (the broker)" in told
    assert "edge-agent enroll https://hub.example:8080" in told
    enroll, run = commands(4)
    device.run(enroll.replace("el1.…", re.findall(r"el1\.\S+", told)[0]))
    agent_log = device.start(run)
    (status, _) = commands(5)

    def failed() -> Any:
        broker = json.loads(device.run(f"{status} --json"))["broker"]
        return broker if broker.get("state") == "failed" else None

    broker = until(failed, agent_log)
    assert (broker["reason"], broker["address"]) == ("refused", "127.0.0.1:8883")
    assert "the device itself" in broker["hint"] and "refused" in agent_log.read_text()

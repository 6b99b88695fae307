"""The hub and the device that most tests of updates begin with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.device import Device, claim, follow, listening, publish
from tests.support.hub import HubFixture, make_hub


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    """A hub by this machine's clock, since a device's children judge dates by it."""
    return make_hub(tmp_path, start=time.time())


@pytest.fixture
def committed(hub: HubFixture, tmp_path: Path) -> Iterator[Device]:
    """A device that has committed release 1, and release 2 is not made yet."""
    follow(hub, publish(hub, tmp_path))
    with listening(hub) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        device.look()
        device.commit()
        yield device


@pytest.fixture
def offered(committed: Device, hub: HubFixture, tmp_path: Path) -> Device:
    """It has committed release 1, and the channel has gone on to release 2."""
    follow(hub, publish(hub, tmp_path, seed=2))
    return committed

"""The moment that must have passed: how it comes to be, and what a device says when the metadata contradicts it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from cloud_hub.config import HubConfig
from cloud_hub.errors import InvalidError
from edge_agent.host.clock import EPOCH, TimeFloor
from edge_agent.identity.tls import refusal
from edge_agent.update.worker.tuf_client import TIMESTAMP_S
from tests.edge_agent.update.test_attacks import DAY, World
from tests.support.hub import START


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def pushed(world: World, days: float = 360) -> None:
    """Stolen online keys sign a timestamp that ends in years, while the device's clock runs `days` ahead."""
    assert world.read() is not None
    forge = world.forge()
    forge.expires = dt.datetime.fromtimestamp(START + 3000 * DAY, dt.UTC)
    for role in ("channels", "models"):
        signed = forge.signed(role)
        signed.expires = forge.expires
        forge.sign(role, signed)
    world.between.show(forge.seal().files)
    world.now = START + days * DAY
    with world.look() as trusted:
        assert trusted.problem == ""
    world.between.lies.clear()
    world.rotate("timestamp", "snapshot", "rollout")


@pytest.mark.parametrize("days", [5, 360])
def test_a_floor_that_was_pushed_ahead_is_named_with_the_file_to_remove(world: World, days: float) -> None:
    pushed(world, days)
    world.now, floor = START + 300, world.tuf.parent / "time-floor"
    for _ in range(2):
        with world.look() as trusted:
            assert trusted.problem == "clock-untrusted"
            assert f"remove {floor}" in trusted.detail and "if the clock is right" in trusted.detail
    floor.unlink()
    with world.look() as trusted:
        assert trusted.problem == ""


@pytest.mark.parametrize("now", [0.0, START - 9 * DAY, START + 30 * DAY])
def test_a_clock_that_no_metadata_bears_out_is_told_to_be_set(world: World, now: float) -> None:
    pushed(world)
    world.now = now
    with world.look() as trusted:
        assert trusted.problem == "clock-untrusted"
        assert "remove" not in trusted.detail and trusted.detail.endswith("set this device's clock")


def test_tls_names_the_file_too() -> None:
    why = refusal(START - DAY, START + 90 * DAY, now=START, floor=START + 360 * DAY, trusted=False)
    assert "remove the file time-floor" in why and "restart the hub" in why


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "1e300", "-5"])
def test_a_damaged_floor_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "time-floor").write_text(text)
    floor = TimeFloor(tmp_path / "time-floor")
    assert floor.value == EPOCH and floor.trusts(0.0)
    floor.raise_to(START)
    assert TimeFloor(tmp_path / "time-floor").value == START


def test_no_hub_signs_a_timestamp_for_longer_than_devices_reckon_with(tmp_path: Path) -> None:
    longest = TIMESTAMP_S / DAY
    assert HubConfig.build(tmp_path, {"expiry": {"timestamp": longest}}).expiry.timestamp == longest
    for days in (longest + 0.01, 60, 0):
        with pytest.raises(InvalidError, match=r"expiry.timestamp.*at most 7 days") as caught:
            HubConfig.build(tmp_path, {"expiry": {"timestamp": days}})
        assert "hub.toml" in caught.value.hint

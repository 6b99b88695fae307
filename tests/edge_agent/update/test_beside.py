"""A shadow stage at a device: its release is here, verified and tried, and nothing that serves ever knows of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from edge_agent.shadow.copies import Copies
from edge_agent.shadow.runner import Shadows
from edge_agent.update.disk.state import read_state
from edge_agent.update.disk.store import Store
from fleet.protocol.channel import Channel, ModelEntry, RolloutRef
from fleet.protocol.shadow import Shadow
from tests.support.device import LOOP, Device, claim, follow, listening, publish
from tests.support.hub import HubFixture
from tests.support.in_process import InProcessChildren
from tests.support.shadows import FakeProcesses, FakeSink


def stage(hub: HubFixture, release: int, *, attempt: int = 1, share_ppm: int = 0, shadow: bool = True) -> None:
    """The channel's rollout from release 1, in its shadow stage or at a share."""
    rollout = RolloutRef(
        id="r-1",
        attempt=attempt,
        release=release,
        from_release=1,
        share_ppm=share_ppm,
        salt="s",
        shadow=Shadow() if shadow else None,
    )
    change(hub, lambda entry: replace(entry, rollout=rollout))


def change(hub: HubFixture, how) -> None:
    def changed(c: Channel) -> Channel:
        entry: ModelEntry = c.models["tiny"]
        return Channel(channel="stable", version=c.version, models={"tiny": how(entry)})

    hub.hub.publisher.change_channel("stable", changed, actor="test")


@pytest.fixture
def device(hub: HubFixture, tmp_path: Path) -> Iterator[Device]:
    """It has committed release 1, and its children are threads."""
    follow(hub, publish(hub, tmp_path))
    with listening(hub) as url:
        device = shadowing(Device(url, claim(hub), tmp_path / "agent"))
        device.look()
        device.commit()
        yield device


def shadowing(device: Device) -> Device:
    device.copies, device.sink = Copies(), FakeSink()
    device.shadows = Shadows(FakeProcesses(), device.copies, device.sink)
    device.restart(shadows=device.shadows, children=InProcessChildren(device.config, time.time))
    device.start()
    return device


def blobs(device: Device) -> set[str]:
    return {path.name for path in Store(device.config.dir).blobs.iterdir()}


def test_it_is_made_ready_beside_what_serves_and_its_space_is_given_back(device: Device, hub, tmp_path: Path) -> None:
    before, had = device.state(), blobs(device)
    reports = len(device.reporter.models)
    stage(hub, publish(hub, tmp_path, seed=2))
    device.look()
    assert device.copies.wanted["tiny"].release == 2 and not device.shadows.document()["tiny"]["reason"]
    assert device.state() == before and device.activator.serving == {"tiny": 1}
    assert len(device.reporter.models) == reports and len(blobs(device)) > len(had)
    device.look()
    assert "tiny" in device.copies.wanted  # and goes on
    change(hub, lambda entry: replace(entry, rollout=None))
    device.look()
    assert not device.copies.wanted and blobs(device) == had


def test_the_next_stage_finds_what_was_fetched(device: Device, hub, tmp_path: Path) -> None:
    number = publish(hub, tmp_path, seed=2)
    stage(hub, number)
    device.look()
    kept = blobs(device)
    stage(hub, number, share_ppm=1, shadow=False)
    device.look()
    assert not device.copies.wanted and blobs(device) == kept and device.activator.serving == {"tiny": 1}
    stage(hub, number, share_ppm=1_000_000, shadow=False)
    device.look()
    assert device.activator.serving == {"tiny": 2} and device.state().state == "probation"


def test_one_whose_self_test_fails_is_not_tried_again_before_the_next_attempt(device: Device, hub, tmp_path) -> None:
    before = device.state()
    number = publish(hub, tmp_path, seed=5, tolerance=-1.0)
    stage(hub, number)
    device.look()
    device.look()
    assert device.sink.given_up == [("tiny", "selftest-failed")]
    stage(hub, number, attempt=2)
    device.look()
    assert device.sink.given_up == [("tiny", "selftest-failed")] * 2
    assert device.state() == before and not device.copies.wanted


def test_a_disk_without_room_costs_the_shadow_only(device: Device, hub, tmp_path: Path) -> None:
    stage(hub, publish(hub, tmp_path, seed=2))
    before, config = device.state(), device.config
    device.config = replace(config, disk_reserve_bytes=1 << 60)
    shadowing(device)
    assert device.look() is False  # the look has not failed
    assert device.shadows.document()["tiny"]["reason"] == "disk-full" and not device.sink.given_up
    assert device.state() == before
    device.config = config
    shadowing(device)
    device.look()
    assert "tiny" in device.copies.wanted


def test_a_kill_while_it_is_fetched_or_tried_leaves_what_serves(device: Device, hub, tmp_path: Path) -> None:
    before, had = device.state(), blobs(device)
    stage(hub, publish(hub, tmp_path, seed=2))
    kill_with(device, len(had) + 1)
    assert read_state(device.config.dir).models["tiny"] == before
    shadowing(device)
    assert device.activator.serving == {"tiny": 1} and device.state() == before
    device.look()
    assert "tiny" in device.copies.wanted and device.activator.serving == {"tiny": 1}
    LOOP.run(device.shadows.follow([]))


def kill_with(device: Device, count: int) -> None:
    """Run a real updater and kill it as soon as so many files are there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.killable", str(device.config.dir), device.enrollment.device_id, "stable"],
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while len(blobs(device)) < count and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.0005)
        assert len(blobs(device)) >= count
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

"""What a device reports of a rollout's release reaches the rollout's guard: its report names rollout and attempt."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cloud_hub.rollouts import create_rollout
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store.tables import Device as DeviceRow
from cloud_hub.store.tables import DeviceModel, RolloutRow
from edge_agent.ports import Health
from fleet.protocol.messages import ModelReport
from tests.support.device import LOOP, Device, claim, follow, listening, publish
from tests.support.hub import HubFixture


@pytest.fixture
def device(hub: HubFixture, tmp_path: Path):
    """It has committed release 1; a rollout moves it to release 2."""
    follow(hub, publish(hub, tmp_path))
    with listening(hub) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        device.look()
        device.commit()
        yield device


def roll_out(hub: HubFixture, release: int, **guard: object) -> str:
    options = {"evidence": "install", **guard}
    return create_rollout(
        hub.hub, model="tiny", release=release, channel="stable", stages=[100], guard=options, actor="test"
    ).id


def step(hub: HubFixture, device: Device, rollout: str) -> RolloutRow:
    """The hub takes in the device's latest report and decides."""
    said: ModelReport = device.reporter.models[-1]
    with hub.hub.session() as session:
        row = session.get(DeviceModel, (device.enrollment.device_id, "tiny"))
        row = row or DeviceModel(device_id=device.enrollment.device_id, model="tiny", state="")
        for name, value in msgspec.to_builtins(said).items():
            setattr(row, name, value)
        row.at = hub.clock()
        session.add(row)
        session.get(DeviceRow, device.enrollment.device_id).last_seen_at = hub.clock()
    RolloutEngine(hub.hub).look()
    with hub.hub.reading() as session:
        return session.get(RolloutRow, rollout)


def test_a_probation_that_rolled_back_halts_the_rollout(device: Device, hub: HubFixture, tmp_path: Path) -> None:
    rollout = roll_out(hub, publish(hub, tmp_path, seed=2))
    device.look()
    assert device.state().state == "probation" and step(hub, device, rollout).state == "running"
    device.activator.says = Health(requests=3, failures=1)
    LOOP.run(device.updater.judge("tiny"))
    assert (device.reporter.models[-1].rollout, device.reporter.models[-1].attempt) == (rollout, 1)
    row = step(hub, device, rollout)
    assert (row.state, row.reason) == ("halted", "1 of 1 devices failed (failures)")


@pytest.mark.parametrize(
    ("change", "word"), [({"tolerance": -1.0}, "selftest-failed"), ({"runtime": "litert"}, "no-variant")]
)
def test_a_release_that_a_device_cannot_take_halts_the_rollout(
    device: Device, hub: HubFixture, tmp_path: Path, change: dict, word: str
) -> None:
    rollout = roll_out(hub, publish(hub, tmp_path, seed=2, **change))
    device.updater._kinds = ("onnx",)
    device.look()
    row = step(hub, device, rollout)
    assert (row.state, row.reason) == ("halted", f"1 of 1 devices failed ({word})")
    assert device.activator.serving == {"tiny": 1}

"""A device's reports on a rollout's release reach the rollout's guard: each names rollout and attempt."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from cloud_hub.rollouts import create_rollout
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store.tables import Device as DeviceRow
from cloud_hub.store.tables import DeviceModel, PairEvidence, RolloutRow
from cloud_hub.trust import checks
from edge_agent.ports import ReleaseHealth
from edge_agent.serving.engine import Engine
from edge_agent.serving.policy import Policies
from edge_agent.serving.slots import Slots
from fleet.protocol import oip
from fleet.protocol.channel import Probation
from fleet.protocol.errors import RefusalError
from fleet.protocol.manifest import encode_manifest
from fleet.protocol.messages import ModelReport
from tests.support import models
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
    device.activator.says = ReleaseHealth(requests=3, failures=1)
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
    looks = device.updater._looks
    looks.device = dataclasses.replace(looks.device, kinds=("onnx",))
    device.look()
    row = step(hub, device, rollout)
    assert (row.state, row.reason) == ("halted", f"1 of 1 devices failed ({word})")
    assert device.activator.serving == {"tiny": 1}


def served(hub: HubFixture, device: Device, rollout: str, **counts: int) -> None:
    """The requests of the rollout that the device's windows have told so far."""
    with hub.hub.session() as session:
        session.merge(PairEvidence(rollout=rollout, attempt=1, device_id=device.enrollment.device_id, **counts))


def quiet(device: Device, hub: HubFixture, tmp_path: Path) -> str:
    """A rollout whose device had no request through its whole probation."""
    follow(hub, 1, lambda entry: replace(entry, probation=Probation(seconds=0.0)))
    device.look()
    rollout = roll_out(hub, publish(hub, tmp_path, seed=2), evidence_deadline_s=60)
    device.look()
    LOOP.run(device.updater.judge("tiny"))
    assert device.state().state == "committed" and device.reporter.models[-1].untried
    return rollout


def test_a_rollout_on_devices_without_requests_waits_and_says_why(device: Device, hub: HubFixture, tmp_path) -> None:
    rollout = quiet(device, hub, tmp_path)
    row = step(hub, device, rollout)
    assert row.state == "running" and row.progress["verdict"]["judgement"] == "not-enough-evidence"
    hub.clock.advance(61)
    row = step(hub, device, rollout)
    assert row.state == "holding"
    assert row.reason == "no evidence within 60 s: not enough evidence: 1 device has had no request"
    device.activator.says = ReleaseHealth(requests=1, failures=0)
    LOOP.run(device.updater.judge("tiny"))
    assert not device.reporter.models[-1].untried
    row = step(hub, device, rollout)
    assert (row.state, row.reason) == ("finished", "1 of 1 devices committed, 0 failed")


def test_requests_that_an_untried_release_refuses_halt_the_rollout(device: Device, hub: HubFixture, tmp_path) -> None:
    rollout = quiet(device, hub, tmp_path)
    device.activator.says = ReleaseHealth(requests=0, failures=0, newly_refused=1, refusal="input 'x' is missing")
    LOOP.run(device.updater.judge("tiny"))
    assert device.activator.serving == {"tiny": 1}
    row = step(hub, device, rollout)
    assert (row.state, row.reason) == ("halted", "1 of 1 devices failed (refusals)")


@pytest.mark.parametrize(
    ("counts", "state", "reason"),
    [
        ({"answered": 100}, "finished", "1 of 1 devices committed, 0 failed"),
        ({"answered": 1000, "newly_refused": 1}, "finished", "1 of 1 devices committed, 0 failed"),
        ({"answered": 100, "newly_refused": 10}, "halted", "1 of 1 devices failed (refusals)"),
        ({"newly_refused": 1}, "halted", "1 of 1 devices failed (no-good-answer)"),
        ({"local_failed": 5}, "halted", "1 of 1 devices failed (no-good-answer)"),
    ],
)
def test_what_became_of_requests_is_evidence_also_on_a_device_that_keeps_the_release(
    device: Device, hub: HubFixture, tmp_path: Path, counts: dict, state: str, reason: str
) -> None:
    rollout = roll_out(hub, publish(hub, tmp_path, seed=2))
    device.look()
    device.commit()
    served(hub, device, rollout, **counts)
    row = step(hub, device, rollout)
    assert (row.state, row.reason) == (state, reason)


class Nobody:
    """Hears of requests and keeps nothing."""

    def finished(self, outcome) -> None: ...

    def refused(self, refused) -> None: ...

    def audit(self, served, inputs, classes) -> None: ...


def narrow(hub: HubFixture, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A release that takes one row at a time, where the model's releases take any number. No hub would publish it;
    one of an earlier version did."""
    monkeypatch.setattr(checks, "check_interface", lambda *arguments, **options: None)
    for where in ("trust.publisher", "rollouts.create"):
        monkeypatch.setattr(f"cloud_hub.{where}.refuse_stranger", lambda *arguments: None)
    made = models.release(folder / "narrow", data=models.onnx_bytes(rows=1), cloud=False)
    one_row = {
        name: (replace(getattr(made.manifest, name)[0], shape=shape),)
        for name, shape in (("inputs", (1, 4)), ("outputs", (1, 3)))
    }
    for path in (folder / "narrow").iterdir():
        hub.hub.objects.put_new(f"blobs/{path.name}", path.read_bytes())
    data = encode_manifest(replace(made.manifest, **one_row))
    return hub.hub.publisher.publish_release("tiny", data, actor="test").number


@pytest.mark.parametrize("rows", [2, 3])
def test_a_release_that_refuses_what_applications_send_goes_and_the_one_before_answers_them(
    device: Device, hub: HubFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    slots = Slots()
    device.restart(activator=slots)
    device.start()
    engine = Engine(slots, Policies(), None, Nobody())
    request = oip.InferRequest(inputs=(oip.TensorValue("input", models.inputs(rows)),))
    rubbish = oip.InferRequest(inputs=(oip.TensorValue("rubbish", models.inputs(rows)),))

    def ask(what: oip.InferRequest) -> int:
        return int(LOOP.run(engine.infer("tiny", "", what)).model_version)

    assert ask(request) == 1
    rollout = roll_out(hub, narrow(hub, tmp_path, monkeypatch))
    device.look()
    with pytest.raises(RefusalError, match="shape"):
        ask(request)
    with pytest.raises(RefusalError):
        ask(rubbish)
    assert slots.health("tiny").newly_refused == 1
    LOOP.run(device.updater.judge("tiny"))
    assert (device.state().state, device.state().reason) == ("rolled_back", "refusals")
    assert f"input 'input' has shape [{rows}, 4], the model takes [1, 4]" in device.state().detail
    assert ask(request) == 1
    row = step(hub, device, rollout)
    assert (row.state, row.reason) == ("halted", "1 of 1 devices failed (refusals)")

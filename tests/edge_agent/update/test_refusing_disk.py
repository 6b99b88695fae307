"""A disk that refuses to be written, or to be read, at the worst moments: the device serves, and goes on later."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edge_agent import ports
from edge_agent.errors import ActivationError, UpdateError
from edge_agent.ports import ReleaseHealth
from edge_agent.update.disk import state as states
from edge_agent.update.disk.store import Store
from edge_agent.update.messages import LookRequest
from edge_agent.update.rules.model_state import HeldRelease
from edge_agent.update.worker.resolve_targets import offers
from fleet.protocol.channel import Channel, ModelEntry
from fleet.protocol.manifest import encode_manifest
from fleet.protocol.messages import DeviceMe
from tests.support.device import LOOP, Device, FakeActivator, follow
from tests.support.hub import HubFixture
from tests.support.models import release


class Disk:
    """`state.json`'s disk: refuses the writes that `refuses` names by number, or all from `broken` on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes, self.refuses, self.broken = 0, set(), 0
        self._write = states.write_durably
        monkeypatch.setattr(states, "write_durably", self.write)

    def write(self, path: Path, data: bytes) -> None:
        self.writes += 1
        if self.broken or self.writes in self.refuses:
            raise OSError(self.broken or errno.ENOSPC, "the disk refuses", str(path))
        self._write(path, data)

    def fail_from_here(self, number: int = errno.ENOSPC) -> None:
        self.broken = number

    def mend(self) -> None:
        self.broken, self.refuses = 0, set()


@pytest.fixture
def device(offered: Device) -> Device:
    return offered


def stop_while(device: Device, state: str) -> None:
    """The agent is gone, and its state says what was under way."""
    device.look()
    left = states.replace(device.state(), state=state)
    if state in ("fetching", "verifying", "trying"):
        left = states.replace(left, active=left.previous, previous=None)
    device.updater.file.put_model("tiny", left)
    device.restart()


@pytest.mark.parametrize(
    ("state", "number"),
    [("fetching", errno.ENOSPC), ("verifying", errno.EIO), ("trying", errno.ENOSPC), ("probation", errno.EROFS)],
)
def test_an_agent_starts_and_serves_what_is_proven_without_a_disk_to_write_to(
    device: Device, state: str, number: int, monkeypatch
) -> None:
    stop_while(device, state)
    disk = Disk(monkeypatch)
    disk.fail_from_here(number)
    device.start()
    assert device.activator.serving == {"tiny": 1}  # also for probation: its start cannot be counted
    told = device.updater.status()
    assert told["problem"] == ("disk-full" if number == errno.ENOSPC else "disk-error")
    assert "state.json cannot be written" in told["hint"]
    with pytest.raises(UpdateError) as caught:
        device.look()
    assert caught.value.reason == told["problem"] and device.activator.serving == {"tiny": 1}
    disk.mend()
    device.look()
    device.commit()
    assert device.activator.serving == {"tiny": 2} and device.updater.status()["problem"] == ""
    device.restart()
    device.start()
    assert device.activator.serving == {"tiny": 2}  # what memory held reached the disk


@pytest.mark.parametrize("nth", range(1, 6))
def test_one_refused_write_costs_one_look_and_no_restart(device: Device, nth: int, monkeypatch) -> None:
    """The writes of an update: what was looked up, fetching, verifying, trying, probation."""
    disk = Disk(monkeypatch)
    disk.refuses = {nth}
    if nth == 1:
        device.look()  # what was looked up waits for the next write
    else:
        with pytest.raises(UpdateError, match="the disk refuses") as caught:
            device.look()
        assert (caught.value.reason, device.state().reason) == ("disk-full", "disk-full")
        assert device.activator.serving == {"tiny": 1} and device.state().state in ("committed", "idle")
        device.look()
    assert device.activator.serving == {"tiny": 2} and device.state().state == "probation"


def test_a_rollback_needs_no_disk(device: Device, monkeypatch) -> None:
    device.look()
    disk = Disk(monkeypatch)
    disk.fail_from_here()
    device.activator.says = ReleaseHealth(requests=3, failures=1)
    LOOP.run(device.updater.judge("tiny"))
    assert device.activator.serving == {"tiny": 1} and device.reporter.models[-1].reason == "failures"
    disk.mend()
    device.updater.file.save()
    device.restart()
    device.start()
    assert device.activator.serving == {"tiny": 1} and device.state().reason == "failures"


def test_a_halt_needs_no_disk(device: Device, hub: HubFixture, monkeypatch) -> None:
    device.look()
    follow(hub, 1)
    Disk(monkeypatch).fail_from_here()
    device.look()
    assert device.activator.serving == {"tiny": 1} and device.state().state == "committed"


@pytest.mark.parametrize("left", ["fetching", "trying"])
def test_what_a_cancelled_look_left_is_taken_up_by_the_next(device: Device, left: str) -> None:
    begun = states.replace(device.state(), state=left, target=None)
    device.updater.file.put_model("tiny", begun)
    device.look()
    assert device.activator.serving == {"tiny": 2} and device.state().state == "probation"
    assert "interrupted" in [report.reason for report in device.reporter.models]


class Blind(FakeActivator):
    """Cannot load the releases that `refuses` names."""

    def __init__(self, *refuses: int) -> None:
        super().__init__()
        self.refuses = set(refuses)

    async def activate(self, release, previous, pairing) -> None:
        if release.number in self.refuses:
            raise ActivationError(f"no memory for release {release.number}")
        await super().activate(release, previous, pairing)


@pytest.fixture
def both(device: Device) -> Device:
    """Release 2 is committed, release 1 the way back."""
    device.look()
    device.commit()
    return device


def test_a_release_that_cannot_be_loaded_now_is_not_forgotten(both: Device) -> None:
    now = [0.0]
    both.restart(activator=Blind(2), now=lambda: now[0])
    both.start()
    assert both.activator.serving == {"tiny": 1}  # stands in
    assert (both.state().active.release, both.state().reason) == (2, "activation-failed")
    assert "it is tried again" in both.state().hint
    both.look()
    assert both.state().reason == "activation-failed"  # a look does not call that stale
    both.activator.refuses.clear()
    LOOP.run(both.updater._activation.retry("tiny"))
    assert both.activator.serving == {"tiny": 1}  # not yet
    now[0] = 5.0
    LOOP.run(both.updater._activation.retry("tiny"))
    assert both.activator.serving == {"tiny": 2} and both.state().reason == ""


def test_a_start_without_any_runtime_forgets_nothing(both: Device) -> None:
    both.restart(activator=Blind(1, 2))
    both.start()
    assert both.activator.serving == {} and (both.state().active.release, both.state().previous.release) == (2, 1)
    both.restart()
    both.start()
    assert both.activator.serving == {"tiny": 2}


def test_a_file_that_cannot_be_read_now_is_neither_deleted_nor_called_damaged(both: Device, monkeypatch) -> None:
    read = ports.Path.read_bytes
    blobs = both.config.dir / "blobs"
    before = sorted(blobs.iterdir())

    def refuse(path: Path) -> bytes:
        if path.parent == blobs:
            raise OSError(errno.EMFILE, "too many open files")
        return read(path)

    monkeypatch.setattr(ports.Path, "read_bytes", refuse)
    both.restart()
    both.start()
    assert sorted(blobs.iterdir()) == before
    assert (both.state().active.release, both.state().reason) == (2, "disk-error")


def test_a_release_on_probation_that_cannot_be_loaded_gives_way_and_is_tried_again(device: Device) -> None:
    device.look()
    device.restart(activator=Blind(2))
    device.start()
    assert device.activator.serving == {"tiny": 1} and device.state().state == "rolled_back"
    assert device.state().reason == "activation-failed" and device.state().rejected == ()
    device.activator.refuses.clear()
    device.look()
    assert device.activator.serving == {"tiny": 2} and device.state().state == "probation"


def test_a_reason_that_is_over_does_not_stay(both: Device) -> None:
    both.updater.file.put_model("tiny", states.replace(both.state(), reason="unreachable", detail="the hub was away"))
    both.look()
    assert both.state().reason == ""


def test_a_disk_that_takes_no_manifest_refuses_that_release_alone(tmp_path: Path, monkeypatch) -> None:
    class View:
        problem = detail = ""

        def read(self, path: str, limit: int, **more: object) -> bytes | None:
            return None if path.endswith("floor.json") else encode_manifest(made.manifest)

    def refuse(self, data: bytes) -> str:
        raise OSError(errno.ENOSPC, "no space left on device")

    made = release(tmp_path / "blobs")
    monkeypatch.setattr(Store, "put_manifest", refuse)
    back = HeldRelease(release=1, variant="v", manifest="m")
    models = {"held": ModelEntry(release=1), "new": ModelEntry(release=2)}
    channel = Channel(channel="stable", version=2, models=models)
    asked = LookRequest(device_id="d", channel="stable", kinds=("onnx",), held={"held": (back,)})
    mine = DeviceMe(device_id="d", channel="stable")
    found = {answer.model: answer for answer in offers(View(), channel, mine, asked, Store(tmp_path))}
    assert found["held"].target.held == back and found["new"].reason == "disk-full"

"""The store is bounded: what nobody wants goes at the next look; what the channel wants stays, however far it came."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edge_agent.update.disk.store import Store
from tests.support.device import Device, follow, publish
from tests.support.hub import HubFixture


@pytest.fixture
def device(committed: Device) -> Device:
    return committed


def models_on_disk(device: Device, seeds: range) -> int:
    """Count the model files of `publish` for `seeds` in the device's store."""
    from hashlib import sha256

    from tests.support.models import onnx_bytes

    notes = {seed: b"%d" % seed for seed in seeds}
    files = {sha256(onnx_bytes() + b"\x32%c%s" % (len(n), n)).hexdigest() for n in notes.values()}
    return len(files & {path.name for path in (device.config.dir / "blobs").iterdir()})


def test_releases_that_fail_do_not_pile_up(device: Device, hub: HubFixture, tmp_path: Path) -> None:
    for seed in range(2, 6):
        follow(hub, publish(hub, tmp_path, seed=seed, tolerance=-1.0))
        device.look()
        assert device.state().reason == "selftest-failed"
    device.look()
    assert models_on_disk(device, range(1, 6)) == 1  # release 1, which serves


def test_what_an_abandoned_release_left_makes_room_for_the_next(device: Device, hub, tmp_path: Path) -> None:
    blobs = device.config.dir / "blobs"
    left = [blobs / ("e" * 64 + suffix) for suffix in ("", ".part", ".delta", ".draft")]
    for path in left:
        path.write_bytes(b"of a release that the channel has left")
    follow(hub, publish(hub, tmp_path, seed=2))
    device.look()
    assert not any(path.exists() for path in left)
    assert device.activator.serving == {"tiny": 2}


def test_a_patch_that_was_begun_stays_until_its_file_is_whole(device: Device) -> None:
    """Both of what serves: one whose file was damaged since, one that came as a whole after all."""
    held = device.updater.store.open("tiny", device.state().active)
    damaged, whole = held.manifest.selftest.blob.sha256, held.variant.blob.sha256
    blobs = device.config.dir / "blobs"
    for name in (damaged, whole):
        (blobs / f"{name}.delta").write_bytes(b"ELD1")
    (blobs / damaged).unlink()
    device.updater.store.collect([device.state().active])
    assert [path.name for path in blobs.glob("*.delta")] == [f"{damaged}.delta"]


def test_nothing_is_removed_on_the_word_of_a_look_that_failed(device: Device) -> None:
    stray = device.config.dir / "blobs" / ("e" * 64 + ".part")
    stray.write_bytes(b"half")
    (device.config.dir / "time-floor").write_text("1900000000")  # the clock is far behind: nothing counts
    device.look()
    assert device.updater.file.state.looked.problem == "clock-untrusted" and stray.exists()


def test_a_disk_that_refuses_to_remove_does_not_stop_the_look(device: Device, hub, tmp_path: Path, monkeypatch) -> None:
    def refuse(self, in_use) -> int:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(Store, "collect", refuse)
    follow(hub, publish(hub, tmp_path, seed=2))
    device.look()
    assert device.activator.serving == {"tiny": 2}

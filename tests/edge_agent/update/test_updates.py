"""A device against a real hub: install, halt, withdraw, tamper, cut, damage, wrong clock."""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cloud_hub.store.tables import Model
from edge_agent.errors import AgentError, UpdateError
from edge_agent.ports import ReleaseHealth
from edge_agent.update.disk.store import Store
from edge_agent.update.download import fetch
from edge_agent.update.messages import LookRequest, Refusal
from edge_agent.update.worker.resolve_targets import offers
from fleet.protocol.channel import Channel, ModelEntry
from fleet.protocol.codec import encode_json
from fleet.protocol.manifest import Floor, encode_manifest
from fleet.protocol.messages import DeviceMe
from model_compiler.package.delta import build
from tests.support.device import LOOP, Device, claim, follow, listening, publish
from tests.support.hub import HubFixture
from tests.support.in_process import InProcessChildren
from tests.support.models import onnx_bytes, release


@pytest.fixture
def device(hub: HubFixture, tmp_path: Path):
    follow(hub, publish(hub, tmp_path))
    with listening(hub) as url:
        yield Device(url, claim(hub), tmp_path / "agent")


def test_a_release_is_pulled_tried_and_committed(device: Device) -> None:
    assert device.look() is False
    assert device.activator.serving == {"tiny": 1}
    device.commit()
    assert device.reporter.states() == ["fetching", "verifying", "trying", "probation", "committed"]
    assert device.look() is False and len(device.reporter.models) == 5


def test_probation_rolls_back_and_the_release_is_not_tried_again(device: Device, hub, tmp_path: Path) -> None:
    device.look()
    device.commit()
    follow(hub, publish(hub, tmp_path, seed=2))
    device.look()
    assert device.activator.serving == {"tiny": 2} and device.state().state == "probation"
    device.activator.says = ReleaseHealth(requests=3, failures=1)
    LOOP.run(device.updater.judge("tiny"))
    assert device.activator.serving == {"tiny": 1}
    assert (device.state().state, device.state().reason) == ("rolled_back", "failures")
    device.look()
    assert device.activator.serving == {"tiny": 1} and device.state().state == "rolled_back"


def test_a_halt_returns_at_once_to_what_is_held_even_with_a_clock_behind_the_floor(
    device: Device, hub, tmp_path
) -> None:
    device.look()
    device.commit()
    follow(hub, publish(hub, tmp_path, seed=2))
    device.look()
    follow(hub, 1)
    (device.config.dir / "time-floor").write_text("1900000000")  # the clock is now far behind: nothing new
    device.look()
    assert device.activator.serving == {"tiny": 1} and device.state().state == "committed"
    assert device.updater.file.state.looked.clock == "untrusted"
    follow(hub, publish(hub, tmp_path, seed=3))
    device.look()
    assert device.activator.serving == {"tiny": 1} and device.state().reason == "clock-untrusted"


@pytest.mark.parametrize(
    ("floor", "reason"), [(Floor(min_release=3), "below-floor"), (Floor(withdrawn=(2,)), "withdrawn")]
)
def test_a_signed_release_under_the_floor_is_refused(floor: Floor, reason: str, tmp_path: Path) -> None:
    class View:
        problem = detail = ""

        def read(self, path: str, limit: int, **more: object) -> bytes | None:
            return encode_json(floor) if path.endswith("floor.json") else None

    channel = Channel(channel="stable", version=1, models={"tiny": ModelEntry(release=2)})
    asked = LookRequest(device_id="d", channel="stable", kinds=("onnx",))
    (answer,) = offers(View(), channel, DeviceMe(device_id="d", channel="stable"), asked, Store(tmp_path))
    assert isinstance(answer, Refusal) and answer.reason == reason


def test_a_tampered_blob_is_never_tried(device: Device, hub: HubFixture, tmp_path: Path) -> None:
    for path in (tmp_path / "hub").rglob("blobs/*"):
        if path.is_file():
            data = path.read_bytes()
            path.chmod(0o640)
            path.write_bytes(bytes(len(data)))
    with pytest.raises(UpdateError) as caught:
        device.look()
    assert caught.value.reason == "hash-mismatch"
    assert "trying" not in device.reporter.states() and device.activator.serving == {}


def test_a_start_that_is_not_to_serve_does_not_count_against_a_probation(device: Device) -> None:
    device.look()
    before = device.state()
    for _ in range(before.probation.max_starts + 1):
        LOOP.run(device.restart().start(to_serve=False))
        assert device.state() == before and device.activator.serving == {"tiny": 1}
    device.restart()
    device.start()
    assert (device.state().state, device.state().starts) == ("probation", 1)


def test_a_failed_selftest_rolls_back(device: Device, hub: HubFixture, tmp_path: Path) -> None:
    follow(hub, publish(hub, tmp_path, seed=5, tolerance=-1.0))
    device.look()
    assert (device.state().state, device.state().reason) == ("rolled_back", "selftest-failed")


def test_a_full_disk_refuses_with_the_figure(device: Device) -> None:
    (device.config.dir / "agent.toml").write_text(f"disk_reserve_bytes = {1 << 60}\n")
    with pytest.raises(UpdateError, match=r"needs \d+ bytes") as caught:
        device.look()
    assert caught.value.reason == "disk-full" and device.state().state == "idle"


def test_a_disk_that_is_full_all_of_a_sudden_refuses_with_the_figure(device: Device, monkeypatch) -> None:
    free = [1 << 40]

    def write(*arguments) -> None:
        free[0] = 0
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "_write", write)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
    device.restart(children=InProcessChildren(device.config, time.time))
    with pytest.raises(UpdateError, match=r"needs \d+ bytes, 0 are free") as caught:
        device.look()
    assert caught.value.reason == device.state().reason == "disk-full"
    assert device.state().hint.startswith("free ") and device.state().hint.endswith(" bytes on the device")


def test_a_start_without_network_serves_what_is_held(hub: HubFixture, tmp_path: Path) -> None:
    follow(hub, publish(hub, tmp_path))
    with listening(hub) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        device.look()
        device.commit()
    device.restart()
    device.start()
    assert device.activator.serving == {"tiny": 1} and device.updater.current_channel is not None
    with pytest.raises(AgentError):
        device.look()
    assert device.activator.serving == {"tiny": 1}


def test_a_damaged_release_gives_way_to_the_previous_one_and_comes_back(device: Device, hub, tmp_path) -> None:
    device.look()
    device.commit()
    follow(hub, publish(hub, tmp_path, seed=2))
    device.look()
    device.commit()
    release = device.updater.store.open("tiny", device.state().active)
    path = device.updater.store.blobs / release.variant.blob.sha256
    path.chmod(0o640)
    path.write_bytes(b"x" * path.stat().st_size)
    device.restart()
    device.start()
    assert device.activator.serving == {"tiny": 1} and device.state().reason == "hash-mismatch"
    device.look()
    assert device.activator.serving == {"tiny": 2}


def publish_large(hub: HubFixture, folder: Path, change: int) -> tuple[int, bytes]:
    """A release whose model file carries 60,000 bytes of documentation, a few of them changed; its number and file."""
    text = np.random.default_rng(0).integers(32, 127, 60_000, dtype=np.uint8)
    text[:change] = ord("x")
    length = len(text)
    field = b"\x32" + bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14]) + text.tobytes()
    with hub.hub.session() as session:
        if session.get(Model, "tiny") is None:
            session.add(Model(name="tiny", created_at=hub.clock()))
    data = onnx_bytes() + field
    made = release(folder / f"large-{change}", data=data)
    for path in (folder / f"large-{change}").iterdir():
        hub.hub.objects.put_new(f"blobs/{path.name}", path.read_bytes())
    return hub.hub.publisher.publish_release("tiny", encode_manifest(made.manifest), actor="test").number, data


@pytest.mark.parametrize("damage", [False, True])
def test_an_update_comes_as_a_patch_and_as_a_whole_file_where_the_patch_is_damaged(
    damage: bool, hub: HubFixture, tmp_path: Path
) -> None:
    first, old = publish_large(hub, tmp_path, 0)
    follow(hub, first)
    with listening(hub) as url:
        counted: list[int] = []
        device = Device(url, claim(hub), tmp_path / "agent")
        device.restart(count_bytes=counted.append)
        device.look()
        device.commit()
        whole = sum(counted)
        second, new = publish_large(hub, tmp_path, 40)
        patch = build(old, new).patch
        if damage:
            patch = patch[:-30] + bytes(30)
        names = [hashlib.sha256(data).hexdigest() for data in (new, old)]
        hub.hub.objects.put_new(f"deltas/{names[0]}/{names[1]}", patch)
        follow(hub, second)
        counted.clear()
        device.look()
        device.commit()
        assert device.activator.serving == {"tiny": second} and device.state().state == "committed"
        assert device.updater.store.blobs.joinpath(names[0]).read_bytes() == new
        assert whole > 60_000
        assert sum(counted) > 60_000 if damage else sum(counted) < 2_000
        assert not [path for path in device.updater.store.blobs.iterdir() if "." in path.name]


def test_a_patch_that_broke_off_goes_on_in_the_next_look(hub: HubFixture, tmp_path: Path, monkeypatch) -> None:
    first, old = publish_large(hub, tmp_path, 0)
    follow(hub, first)
    with listening(hub) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        device.look()
        device.commit()
        second, new = publish_large(hub, tmp_path, 4000)
        patch, names = build(old, new).patch, [hashlib.sha256(data).hexdigest() for data in (new, old)]
        hub.hub.objects.put_new(f"deltas/{names[0]}/{names[1]}", patch)
        follow(hub, second)
        asked, whole = [], type(hub.hub.objects).stream

        def breaks_off(self, key, start=0, length=None):
            asked.append((key.partition("/")[0], start))
            pieces = whole(self, key, start, length)
            if len(asked) > 1 or not key.startswith("deltas/"):
                yield from pieces
            else:
                yield next(pieces)[: len(patch) // 2]
                raise OSError("the connection is gone")

        monkeypatch.setattr(type(hub.hub.objects), "stream", breaks_off)
        with pytest.raises(AgentError, match="broke off"):
            device.look()
        blobs = device.updater.store.blobs
        assert device.activator.serving == {"tiny": first} and device.state().reason == "unreachable"
        assert (blobs / f"{names[0]}.delta").stat().st_size == len(patch) // 2
        device.restart()  # a download outlives its process
        device.start()
        device.look()
        assert device.activator.serving == {"tiny": second} and blobs.joinpath(names[0]).read_bytes() == new
        assert ("deltas", len(patch) // 2) in asked and asked.count(("deltas", 0)) == 1
        assert not [path for path in blobs.iterdir() if "." in path.name]

"""Installs that wait for the window or for tomorrow's budget, on a device with a real hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from edge_agent.agent import Agent
from edge_agent.errors import UpdateError
from edge_agent.telemetry.budget import Budget
from edge_agent.telemetry.database import Database
from edge_agent.update.rules import install_window
from fleet.protocol.channel import Channel, Fetching, ModelEntry, Probation
from fleet.protocol.durations import DAY_S
from fleet.protocol.manifest import encode_manifest
from model_compiler.package.delta import build
from tests.support.device import LOOP, Device, claim, listening, publish
from tests.support.hub import HubFixture
from tests.support.models import onnx_bytes, release

NIGHT = "02:00-05:00"
DAY = 20_000 * DAY_S  # the device's own clock, which only judges windows and budgets here


@pytest.fixture
def device(hub: HubFixture, tmp_path: Path):
    follow(hub, publish(hub, tmp_path))
    with listening(hub) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        device.now[0] = DAY + 12 * 3600.0
        device.look()
        device.commit()
        yield device


def follow(hub: HubFixture, number: int, **fetching) -> None:
    entry = ModelEntry(release=number, probation=Probation(seconds=1e9, requests=50))
    hub.hub.publisher.change_channel(
        "stable",
        lambda c: Channel(channel="stable", version=c.version, models={"tiny": entry}, fetching=Fetching(**fetching)),
        actor="test",
    )


def test_an_install_waits_for_the_window_and_says_when_it_opens(device: Device, hub, tmp_path: Path) -> None:
    follow(hub, publish(hub, tmp_path, seed=2), window=NIGHT)
    reports = len(device.reporter.models)
    assert device.look() is False and device.look() is False
    assert device.activator.serving == {"tiny": 1}
    last = device.reporter.models[-1]
    assert (last.state, last.active, last.reason) == ("committed", 1, "outside-window")
    assert "opens at 2024-10-05T02:00Z" in last.detail
    assert len(device.reporter.models) == reports + 1  # said once, not at every look
    assert not list((tmp_path / "agent" / "blobs").glob("*.part"))
    assert device.updater._until_next_look(1e9) == pytest.approx(14 * 3600, abs=61)
    device.now[0] = DAY + 26 * 3600.0
    device.look()
    assert device.activator.serving == {"tiny": 2} and device.state().reason == ""


def test_a_way_back_never_waits(device: Device, hub, tmp_path: Path) -> None:
    follow(hub, publish(hub, tmp_path, seed=2))
    device.look()
    device.commit()
    follow(hub, 1, window=NIGHT)
    device.look()
    assert device.activator.serving == {"tiny": 1} and device.state().state == "committed"


def test_a_target_that_is_withdrawn_while_it_waits_leaves_no_reason(device: Device, hub, tmp_path: Path) -> None:
    follow(hub, publish(hub, tmp_path, seed=2), window=NIGHT)
    device.look()
    assert device.state().reason == "outside-window"
    follow(hub, 1, window=NIGHT)
    device.look()
    assert device.state().reason == "" and device.reporter.models[-1].reason == ""


def test_a_spent_budget_waits_for_the_next_day_and_metadata_does_not(device: Device, hub, tmp_path: Path) -> None:
    budget = Budget(Database(tmp_path / "budget.db"), lambda: device.now[0])
    device.restart(budget=budget)
    device.start()
    budget.limit = 1000
    budget.count(down=950)
    assert budget.left() == 0 and budget.allows(50, reserved=True)
    follow(hub, publish(hub, tmp_path, seed=2), bytes_per_day=1000)
    device.look()
    state = device.state()
    assert (state.state, state.reason) == ("committed", "budget-spent") and "2024-10-05T00:00Z" in state.detail
    follow(hub, 1, bytes_per_day=1000)
    device.look()  # the channel is read all the same
    assert device.updater.current_channel.version > 2 and device.state().reason == ""
    follow(hub, 2, bytes_per_day=1_000_000)
    budget.limit = 1_000_000
    device.look()
    assert device.activator.serving == {"tiny": 2}
    assert budget.left() == 950_000 - 950 - sum(
        blob.size for blob in _blobs(device, 2) if blob.sha256 not in {b.sha256 for b in _blobs(device, 1)}
    )


def test_a_budget_that_ends_in_the_middle_keeps_what_came(device: Device, hub, tmp_path: Path) -> None:
    budget = Budget(Database(tmp_path / "budget.db"), lambda: device.now[0])
    device.restart(budget=budget)
    device.start()
    budget.limit = 100
    follow(hub, large(hub, tmp_path / "large"), bytes_per_day=100)
    with pytest.raises(UpdateError) as caught:
        device.look()
    assert caught.value.reason == "budget-spent"
    assert (device.state().state, device.state().reason) == ("idle", "budget-spent")
    assert "today's byte budget is spent" in device.state().detail  # not a share of it
    (part,) = (tmp_path / "agent" / "blobs").glob("*.part")
    assert part.stat().st_size == budget.down <= 64 << 10
    assert budget.left() == 0 and device.activator.serving == {"tiny": 1}
    device.look()
    assert device.state().reason == "budget-spent"
    budget.limit = 1_000_000
    device.look()
    assert device.activator.serving == {"tiny": 2}
    assert budget.down == next(blob.size for blob in _blobs(device, 2) if blob.size > 200_000)


@pytest.mark.parametrize(("left", "words"), [(0, "goes on at 1970-01-02T00:00Z"), (7, "this model's share")])
def test_a_share_that_is_used_up_is_not_the_whole_budget(left: int, words: str) -> None:
    class Rest:
        def left(self) -> int:
            return left

        def renews_at(self) -> float:
            return 86_400.0

    hold = install_window.spent(Rest())
    assert hold.reason == "budget-spent" and words in hold.detail


def test_the_look_that_brings_a_budget_heeds_it(device: Device, hub, tmp_path: Path) -> None:
    """In the agent as it is composed, before anything else of it has run."""
    follow(hub, large(hub, tmp_path / "large"), bytes_per_day=100)
    agent = Agent(device.config)
    with pytest.raises(UpdateError) as caught:
        LOOP.run(agent.updater.look())
    assert caught.value.reason == "budget-spent" and agent.budget.left() == 0
    assert 95 <= agent.budget.down <= 64 << 10
    agent.signer.close()
    agent.database.close()


def test_a_spent_budget_does_not_stop_what_a_folder_has(device: Device, hub, tmp_path: Path) -> None:
    mirror = tmp_path / "usb"
    device.config = replace(device.config, mirrors=(mirror.as_uri(),))
    (device.config.dir / "agent.toml").write_text(f'mirrors = ["{mirror.as_uri()}"]\n')
    budget = Budget(Database(tmp_path / "budget.db"), lambda: device.now[0])
    device.restart(budget=budget)
    device.start()
    budget.limit = 1000
    budget.count(down=500)  # enough for the patch below, which would cost what the folder gives for nothing
    follow(hub, large(hub, mirror / "blobs"), bytes_per_day=1000)
    offer_patch(device, hub, mirror / "blobs")
    device.look()
    assert device.activator.serving == {"tiny": 2} and device.state().reason == ""
    assert (budget.down, budget.left()) == (500, 450)
    device.commit()
    budget.count(down=450)
    follow(hub, large(hub, mirror / "blobs", b"another"), bytes_per_day=1000)
    device.look()
    assert device.activator.serving == {"tiny": 3} and (budget.down, budget.left()) == (950, 0)


def offer_patch(device: Device, hub: HubFixture, new: Path) -> None:
    """A patch on the hub from the model that serves to the one in the folder `new`."""
    held = device.state().active
    old = device.updater.store.manifest(held.manifest).variant(held.variant).blob
    wanted = next(path for path in new.iterdir() if path.stat().st_size > 200_000)
    patch = build(device.updater.store.blobs.joinpath(old.sha256).read_bytes(), wanted.read_bytes()).patch
    assert len(patch) < 450
    hub.hub.objects.put_new(f"deltas/{wanted.name}/{old.sha256}", patch)


def large(hub: HubFixture, folder: Path, note: bytes = b"") -> int:
    """Publish a release whose model's documentation (field 6) has 200,000 bytes."""
    data = onnx_bytes() + b"\x32\xc0\x9a\x0c" + note.ljust(200_000, b"\0")
    made = release(folder, data=data, cloud=True)
    for path in folder.iterdir():
        hub.hub.objects.put_new(f"blobs/{path.name}", path.read_bytes())
    return hub.hub.publisher.publish_release("tiny", encode_manifest(made.manifest), actor="test").number


def _blobs(device: Device, number: int):
    held = next(h for h in device.state().in_use if h.release == number)
    manifest = device.updater.store.manifest(held.manifest)
    return manifest.blobs((manifest.variant(held.variant),))

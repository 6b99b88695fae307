"""A device whose agent does not understand a release keeps what it has, and is part of no rollout of it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from cloud_hub.devices.told import told
from cloud_hub.identity.groups import group_ids
from cloud_hub.rollouts.capabilities import held_back, pins
from cloud_hub.store.tables import Device, DeviceModel
from fleet.protocol.channel import Channel, ModelEntry, RolloutRef, Rule
from fleet.protocol.resolve import resolve
from tests.cloud_hub.rollouts.test_engine import add_device, cohort
from tests.support.hub import HubFixture

NEEDS = ("two", "one")


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    """Releases 1 and 2, and release 3, which requires two capabilities; `d-0` lacks one, `d-1` has both."""
    hub.model()
    for seed in range(3):
        hub.release(seed=seed, requires=NEEDS if seed == 2 else ())
    offer(hub, ModelEntry(release=3))
    add_device(hub, "d-0", info={"capabilities": ["one"]})
    add_device(hub, "d-1", info={"capabilities": ["one", "two", "three"]})
    add_device(hub, "d-2")  # has said nothing yet
    return hub


def offer(hub: HubFixture, entry: ModelEntry) -> None:
    hub.hub.publisher.change_channel("stable", lambda c: replace(c, models={"digits": entry}), actor="test")


def held(fleet: HubFixture, device_id: str) -> tuple[dict[str, object], dict[str, int]]:
    with fleet.hub.reading() as session:
        device = session.get(Device, device_id)
        assert device is not None
        groups = group_ids(fleet.hub.device_tokens.group_secret, device.labels)
        found = held_back(session, device, groups)
        return {model: (one.offered, one.lacks, one.release) for model, one in found.items()}, pins(device, found)


def commits(fleet: HubFixture, device_id: str, release: int) -> None:
    with fleet.hub.session() as session:
        session.add(DeviceModel(device_id=device_id, model="digits", state="committed", active=release))


def test_who_understands_a_release_is_not_held_back(fleet: HubFixture) -> None:
    assert held(fleet, "d-1") == ({}, {})


def test_a_new_device_gets_the_newest_release_that_it_understands(fleet: HubFixture) -> None:
    assert held(fleet, "d-0") == ({"digits": (3, ("two",), 2)}, {"digits": 2})
    assert held(fleet, "d-2") == ({"digits": (3, ("one", "two"), 2)}, {"digits": 2})


def test_what_a_device_has_committed_stays(fleet: HubFixture) -> None:
    commits(fleet, "d-0", 1)
    assert held(fleet, "d-0")[1] == {"digits": 1}


def test_a_withdrawn_release_is_not_kept(fleet: HubFixture) -> None:
    commits(fleet, "d-0", 2)
    fleet.hub.publisher.withdraw("digits", 2, reason="wrong", actor="test")
    assert held(fleet, "d-0")[1] == {"digits": 1}


def test_where_no_release_is_understood_none_is_pinned(fleet: HubFixture) -> None:
    for number in (1, 2):
        fleet.hub.publisher.withdraw("digits", number, reason="wrong", actor="test")
    assert held(fleet, "d-0") == ({"digits": (3, ("two",), None)}, {})


def test_a_pin_or_a_rule_to_such_a_release_holds_back_alike(fleet: HubFixture) -> None:
    offer(fleet, ModelEntry(release=2))
    assert held(fleet, "d-0") == ({}, {})
    with fleet.hub.session() as session:
        device = session.get(Device, "d-0")
        assert device is not None
        device.pins, device.labels = {"digits": 3}, {"site": "berlin"}
        session.add(device)
        groups = tuple(group_ids(fleet.hub.device_tokens.group_secret, device.labels))
    assert held(fleet, "d-0")[1] == {"digits": 2}
    with fleet.hub.session() as session:
        device = session.get(Device, "d-0")
        assert device is not None
        device.pins = {}
        session.add(device)
    offer(fleet, ModelEntry(release=1, rules=(Rule(groups=groups, release=3),)))
    commits(fleet, "d-0", 2)
    assert held(fleet, "d-0")[1] == {"digits": 1}, "the default, which a device without the rule would run"


def test_a_rollout_leaves_them_out_and_says_how_many(fleet: HubFixture) -> None:
    offer(fleet, ModelEntry(release=1))
    body = {"model": "digits", "release": 3, "channel": "stable", "stages": [100], "guard": {"evidence": "install"}}
    made = fleet.client.post("/api/v1/rollouts", json=body, headers=fleet.auth()).json()
    assert made["cannot_follow"] == 2
    assert held(fleet, "d-0")[1] == {"digits": 1}, "the channel's document names them, and they are held back"
    assert set(cohort(fleet)) == {"d-0", "d-1", "d-2"}, "by their hashes all belong to the last stage"
    shown = fleet.client.get("/api/v1/devices/d-0", headers=fleet.auth()).json()
    assert shown["held_back"] == {"digits": {"offered": 3, "lacks": ["two"], "release": 1}}


@pytest.mark.parametrize("pinned", [None, 1, 2, 3])
@pytest.mark.parametrize("state", ["committed", "probation"])
def test_what_is_explained_is_what_a_device_that_asks_finds(fleet: HubFixture, pinned: int | None, state: str) -> None:
    rollout = RolloutRef(id="r", attempt=1, release=2, from_release=1, share_ppm=600_000, salt="s")
    with fleet.hub.session() as session:
        device = session.get(Device, "d-1")
        assert device is not None
        device.labels = {"site": "berlin"}
        groups = group_ids(fleet.hub.device_tokens.group_secret, device.labels)
        for name in ("d-0", "d-1", "d-2"):
            row = session.get(Device, name)
            assert row is not None
            row.pins = {} if pinned is None else {"digits": pinned}
            session.add(DeviceModel(device_id=name, model="digits", state=state, active=2, previous=1))
    for entry in (
        ModelEntry(release=3),
        ModelEntry(release=1, rollout=rollout),
        ModelEntry(release=1, rollout=rollout, rules=(Rule(groups=groups, release=3),)),
    ):
        offer(fleet, entry)
        channel = Channel(channel="stable", version=1, models={"digits": entry})
        for name in ("d-0", "d-1", "d-2"):
            mine = told(fleet.hub, name)
            committed = 2 if state == "committed" else 1
            target = resolve(
                channel, "digits", name, groups=frozenset(mine.groups), pin=mine.pins.get("digits"), committed=committed
            )
            answer = fleet.client.get(f"/api/v1/devices/{name}/explain", headers=fleet.auth()).json()
            (found,) = answer["items"]
            assert target is not None and found["release"] == target.release, (name, entry, found)
            assert (answer["device"], answer["channel"], found["committed"]) == (name, "stable", committed)
    assert "site=berlin" in found["detail"] or found["why"] != "rule"


def test_a_device_whose_channel_is_not_there_has_nothing_to_run(fleet: HubFixture) -> None:
    add_device(fleet, "d-9", channel="nowhere")
    answer = fleet.client.get("/api/v1/devices/d-9/explain", headers=fleet.auth()).json()
    assert answer == {"device": "d-9", "channel": "nowhere", "version": None, "items": []}
    assert fleet.client.get("/api/v1/devices/none/explain", headers=fleet.auth()).status_code == 404

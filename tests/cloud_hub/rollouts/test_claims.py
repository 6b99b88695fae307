"""One device with valid credentials speaks first of every input there is: it neither hides harm nor makes any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from sqlmodel import select

from cloud_hub.rollouts import create_rollout
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store.tables import PairEvidence, PairInput, RolloutEvent
from tests.support.hub import HubFixture
from tests.support.rollouts import DEVICES, evidence, make_fleet, row_of, say

SCENES = range(300)
HARMFUL = {scene: "only_old" if scene % 8 == 0 else "both" for scene in SCENES}
HARMLESS = {scene: {0: "only_old", 30: "only_new"}.get(scene % 60, "both") for scene in SCENES}


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    """Three devices, all of them in the only stage of a rollout."""
    return make_fleet(hub)


def start(fleet: HubFixture) -> str:
    row = create_rollout(
        fleet.hub, model="digits", release=2, channel="stable", stages=[100], guard={"margin": 0.05}, actor="test"
    )
    evidence(fleet, row.id)
    with fleet.hub.session() as session:  # the devices have committed the release, and said nothing of inputs
        for told in session.exec(select(PairEvidence)):
            session.delete(told)
    return row.id


def invented(numbers: Iterable[int], outcome: str) -> dict[int, str]:
    """Inputs that no other device ever meets."""
    return {10**6 + number: outcome for number in numbers}


def played(fleet: HubFixture, truth: Mapping[int, str], lies: Mapping[int, str], more: str) -> str:
    """A rollout in which the first device speaks before the others meet anything; its id."""
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    enemy, *honest = DEVICES
    say(fleet, rollout, 1, enemy, lies)
    for part in range(3):
        say(fleet, rollout, 2 + part, enemy, invented(range(500 * part, 500 * (part + 1)), more))
    engine.look()
    assert row_of(fleet, rollout).state == "running", "alone it decides nothing"
    for device in honest:
        say(fleet, rollout, 1, device, truth)
        fleet.clock.advance(1)
        engine.look()
    return rollout


@pytest.mark.parametrize("claimed", ["both", "only_new"])
def test_it_does_not_hide_harm(fleet: HubFixture, claimed: str) -> None:
    rollout = played(fleet, HARMFUL, dict.fromkeys(SCENES, claimed), claimed)
    row = row_of(fleet, rollout)
    assert row.state == "halted", row.progress["verdict"]["reason"]
    assert row.progress["verdict"]["paired"]["contradicted"] == [DEVICES[0]]


def test_it_does_not_halt_a_harmless_release_and_is_named(fleet: HubFixture) -> None:
    rollout = played(fleet, HARMLESS, dict.fromkeys(SCENES, "only_old"), "only_old")
    row = row_of(fleet, rollout)
    assert row.state == "finished" and f"others contradict {DEVICES[0]}" in row.progress["verdict"]["reason"]
    with fleet.hub.reading() as session:
        (event,) = session.exec(select(RolloutEvent).where(RolloutEvent.event == "device-contradicted"))
        assert event.detail["reason"].startswith(f"others say otherwise of inputs that {DEVICES[0]} judged")


def test_where_nobody_lies_the_same_inputs_on_all_devices_are_proof(fleet: HubFixture) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    for device in DEVICES:
        say(fleet, rollout, 1, device, HARMLESS)
    engine.look()
    row = row_of(fleet, rollout)
    assert row.state == "finished", row.progress["verdict"]["reason"]
    assert row.progress["verdict"]["paired"]["shared"] == len(SCENES)
    with fleet.hub.reading() as session:
        assert session.exec(select(PairInput)).all() == []

"""Hand-signed roles that have expired, and a floor that cannot be fetched: a halt works, nothing new begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from cloud_hub.trust import ceremony
from edge_agent.errors import UnreachableError
from edge_agent.update.disk.state import Looked
from edge_agent.update.messages import LookRequest, Offer, Refusal
from edge_agent.update.rules import hints
from edge_agent.update.rules.model_state import HeldRelease
from edge_agent.update.worker.resolve_targets import concluded, looked, offers
from fleet.protocol.channel import ModelEntry
from fleet.protocol.messages import DeviceMe
from tests.edge_agent.update.test_attacks import DAY, Answer, World
from tests.support.hub import PASSPHRASE

MINE = DeviceMe(device_id="d", channel="stable")
ASKED = LookRequest(device_id="d", channel="stable", kinds=("litert", "onnx"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Releases 1 and 2, of which the channel names the second; release 3 was never seen by the device."""
    made = World(tmp_path)
    made.hub.release(seed=1)
    follow(made, 2)
    return made


def follow(world: World, release: int) -> None:
    models = {"digits": ModelEntry(release=release)}
    change = lambda channel: replace(channel, models=models)  # noqa: E731
    world.hub.hub.publisher.change_channel("stable", change, actor="test")


def look(world: World, asked: LookRequest = ASKED, mine: DeviceMe = MINE) -> tuple[Looked, Offer | Refusal]:
    """Look, and return the child's words of the one model, and of the look."""
    with world.look() as trusted:
        seen = looked(trusted, mine, asked)
        assert seen.channel is not None
        (said,) = offers(trusted, seen.channel, mine, asked, world.store)
        return concluded(seen, trusted), said


def holding(world: World) -> LookRequest:
    """A device that has committed release 1 and went on to release 2."""
    found: list[HeldRelease] = []
    for release in (2, 1):
        follow(world, release)
        said = look(world)[1]
        assert isinstance(said, Offer)
        found.append(said.target.held)
    follow(world, 2)
    return replace(ASKED, held={"digits": tuple(found)}, committed={"digits": 1})


def a_year_without_the_release_key(world: World) -> None:
    """Every role is signed anew but the one that signs releases, whose key the hub does not hold."""
    transactions = world.hub.hub.publisher.transactions
    world.hub.clock.advance(300 * DAY)
    held = transactions.signers.pop("models")
    ceremony.renew(transactions, world.hub.offline, PASSPHRASE)
    world.hub.clock.advance(70 * DAY)
    world.hub.hub.publisher.refresh()
    world.now = world.hub.clock() + 60
    transactions.signers["models"] = held  # for what a test publishes afterwards


def test_a_halt_works_while_the_role_that_signs_releases_has_expired(world: World) -> None:
    asked = holding(world)
    world.hub.release(seed=3)
    a_year_without_the_release_key(world)
    world.hub.hub.publisher.transactions.signers.pop("models")
    follow(world, 1)  # the halt
    seen, said = look(world, asked)
    assert isinstance(said, Offer) and said.target.held.release == 1
    assert seen.problem == "expired-metadata" and "models is expired" in seen.hint
    assert "release publish --key" in seen.hint and seen.tuf_expires["models"] < world.now
    follow(world, 3)  # new, and nothing new begins
    seen, said = look(world, asked)
    assert isinstance(said, Refusal) and (said.release, said.reason) == (3, "expired-metadata")
    assert "models is expired" in said.detail


def test_a_floor_still_binds_when_the_role_that_signed_it_has_expired(world: World) -> None:
    asked = holding(world)
    world.hub.hub.publisher.withdraw("digits", 1, "labels swapped", actor="test")
    a_year_without_the_release_key(world)
    said = look(world, asked, replace(MINE, pins={"digits": 1}))[1]
    assert isinstance(said, Refusal) and said.reason == "withdrawn"


def test_the_look_after_the_role_was_signed_anew_installs_again(world: World) -> None:
    asked = holding(world)
    a_year_without_the_release_key(world)
    assert look(world, asked)[0].problem == "expired-metadata"
    world.hub.release(seed=3)
    follow(world, 3)
    seen, said = look(world, asked)
    assert (seen.problem, isinstance(said, Offer)) == ("", True)


@pytest.mark.parametrize("status", [0, 404, 503])
def test_a_floor_that_cannot_be_fetched_holds_back_no_halt(world: World, status: int) -> None:
    asked = holding(world)
    world.hub.release(seed=3)
    follow(world, 3)
    world.hub.hub.publisher.withdraw("digits", 2, "labels swapped", actor="test")  # another floor than the device has
    names = [info.key for info in world.hub.hub.objects.list("tuf/targets/models/digits") if "floor" in info.key]

    def gone():
        raise UnreachableError("broke off")

    for name in names:
        world.between.lies[name] = gone if not status else lambda: Answer(status, iter(()))
    follow(world, 1)
    said = look(world, asked)[1]
    assert isinstance(said, Offer) and said.target.held.release == 1
    follow(world, 3)
    said = look(world, asked)[1]
    assert isinstance(said, Refusal) and said.release == 3


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ("Final root.json is expired", "keys renew"),
        ("New targets is expired", "keys renew"),
        ("New models is expired", "release publish --key"),
        ("timestamp.json is expired", "cloud-hub serve"),
        ("snapshot.json is expired", "cloud-hub serve"),
        ("New channels is expired", "cloud-hub serve"),
    ],
)
def test_the_remedy_fits_the_role(said: str, command: str) -> None:
    words = hints.expired(said, 0.0)
    assert command in words and said in words and "1970-01-01" in words

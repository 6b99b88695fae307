"""Stolen keys, online ones and one of the release keys: what they sign while they count, and that nothing is left of it
once they were replaced."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cloud_hub.trust import repository
from edge_agent.errors import TrustError
from tests.edge_agent.update.test_attacks import World, _manifest, refused
from tests.support.faults.forge import Forge, made_up

FAST = 2**31 - 1


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_fast_forward_ends_when_the_keys_are_replaced(world):
    """A3: versions near the end by stolen online keys; the operator rotates them, and one look is enough."""
    assert world.read() is not None
    world.between.show(world.forge().seal(version=FAST).files)
    with world.look() as trusted:
        assert (trusted.versions["timestamp"], trusted.versions["snapshot"]) == (FAST, FAST)  # it was rightly signed
    world.between.lies.clear()
    with pytest.raises(TrustError, match="version"), world.look():  # until the keys are replaced, nothing is newer
        pass
    world.rotate("snapshot", "timestamp")
    with world.look() as trusted:
        assert trusted.problem == "" and trusted.versions["timestamp"] < FAST
        assert trusted.read("models/digits/1.json", 1 << 20) is not None
    world.between.show(world.forge(rotated=True).seal(version=FAST).files)  # the new root, the old keys
    refused(world, TrustError, "untrusted-metadata")


def test_what_a_thief_signed_gives_way_to_the_hubs_own_of_the_same_version(world):
    """A release key was stolen with the online ones, and only those were replaced: no device keeps the thief's list."""
    assert world.read() is not None
    forge = world.forge()
    listed, evil = forge.signed("models"), b"{}"
    listed.targets["models/digits/2.json"] = repository.target_file("models/digits/2.json", evil)
    forge.files["tuf/targets/" + repository.target_name("models/digits/2.json", evil)] = evil
    forge.sign("models", listed, version=forge.honest["models"] + 1)
    world.between.show(forge.seal().files)
    assert world.read("models/digits/2.json") == evil
    world.between.lies.clear()
    world.hub.release(seed=1)
    world.rotate("snapshot", "timestamp")
    with world.look() as trusted:
        assert trusted.read("models/digits/2.json", 1 << 20) == world.data(_manifest(world, 2))
        assert trusted.versions["models"] == forge.versions["models"]


def test_a_version_beyond_the_last_one_cannot_lock_out_a_new_root(world):
    """A3: a fast-forward does not reach the root, whose versions rise one by one."""
    assert world.read() is not None
    forge = world.forge()
    (key,) = forge.signers["root"]
    forge.sign("root", forge.signed("root"), version=FAST, by=[key])
    forge.files["tuf/metadata/2.root.json"] = forge.files[f"tuf/metadata/{FAST}.root.json"]
    world.between.show(forge.files)
    refused(world, TrustError, "untrusted-metadata")
    world.rotate("timestamp")
    with world.look() as trusted:
        assert trusted.versions["root"] == 2


@pytest.mark.parametrize("thieves", [(0,), (0, 0), (3,), (0, 3)], ids=["one", "twice", "strange", "one and strange"])
def test_one_release_key_of_three_signs_nothing(world, thieves):
    """A9: releases need two of the keys 0, 1 and 2; the thief has 0, and any number of keys of his own."""
    keys = [made_up("models")["models"][0] for _ in range(4)]
    forge = world.forge().delegate("models", keys[:3], 2)
    forge.sign("models", forge.signed("models"), by=keys[:2])
    world.between.show(forge.seal().files)
    assert world.read() is not None  # two of three
    good = forge.key("models")
    forge.target("models", "models/digits/9.json", b"{}", by=[keys[i] for i in dict.fromkeys(thieves)])
    if len(thieves) > len({*thieves}):  # the same signature once more, and under another spelling of its key's id
        document = msgspec.json.decode(forge.files[forge.key("models")])
        (one,) = document["signatures"]
        document["signatures"].append({**one, "keyid": one["keyid"].upper()})
        forge.files[forge.key("models")] = msgspec.json.encode(document)
    world.between.show(forge.seal().files)
    for _ in range(2):
        with pytest.raises(TrustError) as caught:
            world.read("models/digits/9.json")
        assert caught.value.reason == "untrusted-metadata"
    honest = Forge(forge.files, forge.signers)
    honest.sign("models", repository.read(forge.files[good]).signed, by=keys[1:3])
    world.between.show(honest.seal().files)
    assert world.read() is not None and world.read("models/digits/9.json") is None


def test_a_release_key_that_was_replaced_signs_nothing_any_more(world):
    """A9: 0 of the keys 0, 1 and 2 is stolen and replaced by 3; with what 1 signed before, it makes no two of three."""
    keys = [made_up("models")["models"][0] for _ in range(4)]
    forge = world.forge().delegate("models", keys[:3], 2)
    forge.sign("models", forge.signed("models"), by=keys[:2])
    world.between.show(forge.seal().files)
    assert world.read() is not None
    forge.delegate("models", keys[1:], 2)
    forge.sign("models", forge.signed("models"), by=keys[2:])
    world.between.show(forge.seal().files)
    assert world.read() is not None
    forge.target("models", "models/digits/9.json", b"{}", by=keys[:2])
    world.between.show(forge.seal().files)
    with pytest.raises(TrustError):
        world.read("models/digits/9.json")
    forge.sign("models", forge.signed("models"), by=keys[1:3])
    world.between.show(forge.seal().files)
    assert world.read("models/digits/9.json") == b"{}"


@pytest.mark.parametrize("version", [2**63, 2**64, 10**4000])
def test_a_version_that_no_report_can_hold_is_not_kept(world, version):
    """A fast-forward by a stolen key; a number that long in the state would keep the agent from starting."""
    assert world.read() is not None
    forge = world.forge()
    forge.seal(version=version)
    world.between.show(forge.files)
    refused(world, TrustError, "untrusted-metadata")
    kept = msgspec.json.decode((world.tuf / "timestamp.json").read_bytes())
    assert kept["signed"]["version"] == forge.honest["timestamp"]

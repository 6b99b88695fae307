"""A hub that is older than its devices rises above what it has signed before, and above nothing else."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlmodel import Session, select

from cloud_hub.config import HubConfig
from cloud_hub.context import Hub
from cloud_hub.devices.held import HeldIntake, proven_counter
from cloud_hub.errors import BusyError, ForbiddenError, InvalidError, RateError
from cloud_hub.ingest.commands import signed_receipt
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.store.tables import AuditEntry, ChannelRow, Device, Model
from cloud_hub.trust import ceremony, repository
from cloud_hub.trust.evidence import MOST_VERSION, verify
from cloud_hub.trust.lifting import RISE
from cloud_hub.trust.rows import latest_metadata, status_in_words
from edge_agent.errors import OlderMetadataError
from edge_agent.update.worker.evidence import gather
from fleet.protocol.channel import Channel, ModelEntry, decode_channel
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import Held, Receipt
from tests.cloud_hub.backup.conftest import device
from tests.edge_agent.update.test_attacks import World
from tests.support.faults.forge import Forge, made_up
from tests.support.hub import PASSPHRASE, HubFixture
from tests.support.size import examples

ROLES = ("timestamp", "snapshot", "targets", "models", "channels")


def names(release: int) -> Callable[[Channel], Channel]:
    return lambda channel: replace(channel, models={"digits": ModelEntry(release=release)})


class Lost:
    """A hub that lived on after its backup, and a device that has seen all of it; `older` is the hub of the backup."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory)
        self.made: HubFixture = self.world.hub
        self.newer: Hub = self.made.hub
        self.newer.publisher.change_channel("stable", names(1), actor="test")
        self.newer.engine.dispose()
        shutil.copytree(self.newer.config.directory, directory / "older")
        self.config = HubConfig.build(directory / "older", {})

    def live_on(self) -> None:
        """Two more releases, one of them withdrawn, and some news of the channel."""
        publisher = self.newer.publisher
        self.made.release(seed=1)
        self.made.release(seed=2)
        publisher.change_channel("stable", names(2), actor="test")
        publisher.change_channel("stable", names(3), actor="test")
        publisher.withdraw("digits", 2, "bad", actor="test")

    def see(self) -> None:
        """The device looks at whatever hub serves it, as an agent does."""
        with self.world.look() as trusted:
            assert trusted.problem == ""
            for path in ("channels/stable.json", "models/digits/floor.json"):
                assert trusted.read(path, 1 << 20) is not None

    def older(self) -> Hub:
        """The backup's hub is what the device meets from now on."""
        hub = open_hub(self.config, clock=self.made.clock)
        self.world.between._objects = hub.objects
        return hub

    def held(self) -> Held:
        return gather(self.world.tuf)


@pytest.fixture
def lost(tmp_path: Path) -> Lost:
    return Lost(tmp_path)


def lift(hub: Hub, held: Held) -> bool:
    return hub.publisher.lift(held, command=hub.command_key.target(), actor="device:d")


def metadata(hub: Hub) -> dict[str, bytes]:
    with hub.reading() as session:
        return latest_metadata(session)


def versions(hub: Hub) -> dict[str, int]:
    return {role: repository.version_of(body) for role, body in metadata(hub).items()}


def channel_version(hub: Hub) -> int:
    with hub.reading() as session:
        row = session.get(ChannelRow, "stable")
        assert row is not None and decode_channel(row.document).version == row.version
        return row.version


def test_a_device_that_is_ahead_follows_after_it_has_shown_what_it_holds(lost: Lost) -> None:
    lost.live_on()
    lost.see()
    ahead, seen = versions(lost.newer), channel_version(lost.newer)
    hub = lost.older()
    with pytest.raises(OlderMetadataError):
        lost.see()
    assert lift(hub, lost.held())
    lost.see()
    assert all(versions(hub)[role] > ahead[role] for role in ("timestamp", "snapshot", "models", "channels"))
    assert channel_version(hub) == seen + 1
    with hub.reading() as session:
        model = session.get(Model, "digits")
        assert model is not None and model.next_release == 4, "numbers that had a body get no other"
    once = versions(hub)
    assert not lift(hub, lost.held()) and versions(hub) == once
    with pytest.raises(InvalidError):
        hub.publisher.change_channel("stable", names(2), actor="test")
    assert hub.publisher.reserve("digits", actor="test") == 4


def test_what_was_forbidden_is_learnt_from_devices_where_the_journal_is_lost(lost: Lost) -> None:
    lost.newer.publisher.change_channel("stable", lambda c: replace(c, models={}), actor="test")
    lost.newer.publisher.withdraw("digits", 1, "bad", actor="test")
    lost.see()
    hub = lost.older()
    assert lift(hub, lost.held())
    with hub.reading() as session:
        assert status_in_words(session, "digits", 1) == "withdrawn"


def test_other_targets_of_the_same_version_are_published_over_once_at_most(lost: Lost) -> None:
    """A ceremony before the loss and one after it: no publication can be above what the hub may not sign."""
    ceremony.renew(lost.newer.publisher.transactions, lost.made.offline, PASSPHRASE)  # type: ignore[attr-defined]
    lost.see()
    held = lost.held()
    lost.made.clock.advance(86400)
    hub = lost.older()
    ceremony.renew(hub.publisher.transactions, lost.made.offline, PASSPHRASE)  # type: ignore[attr-defined]
    lift(hub, held)
    once = versions(hub)
    assert not lift(hub, held) and not lift(hub, held) and versions(hub) == once


def test_newer_roots_and_targets_are_taken_over_without_a_ceremony(lost: Lost) -> None:
    for _ in range(2):
        ceremony.renew(lost.newer.publisher.transactions, lost.made.offline, PASSPHRASE)  # type: ignore[attr-defined]
    lost.live_on()
    lost.see()
    hub = lost.older()
    assert lift(hub, lost.held())
    ours, theirs = metadata(hub), metadata(lost.newer)
    assert repository.version_of(ours["root"]) == 3
    assert (ours["root"], ours["targets"]) == (theirs["root"], theirs["targets"])
    lost.see()


def test_releases_of_a_key_that_is_held_elsewhere_are_taken_over(lost: Lost) -> None:
    lost.live_on()
    lost.see()
    hub = lost.older()
    del hub.publisher.transactions.signers["models"]  # type: ignore[attr-defined]
    assert lift(hub, lost.held())
    assert metadata(hub)["models"] == metadata(lost.newer)["models"]
    lost.see()


@pytest.mark.parametrize("key", ["timestamp", "rollout", "command"])
def test_keys_that_were_rotated_since_are_asked_for_by_a_sentence(lost: Lost, key: str) -> None:
    lost.live_on()
    lost.world.rotate(key)
    lost.see()
    hub = lost.older()
    before = metadata(hub)
    with pytest.raises(ForbiddenError, match="newer keys") as raised:
        lift(hub, lost.held())
    assert "DIR/keys" in raised.value.hint and metadata(hub) == before
    shutil.rmtree(lost.config.keys_dir)
    shutil.copytree(lost.newer.config.keys_dir, lost.config.keys_dir)
    hub = lost.older()
    assert lift(hub, lost.held())
    lost.see()


def test_a_restore_by_the_command_rises_far_above_by_itself(lost: Lost) -> None:
    lost.live_on()
    lost.see()
    hub = lost.older()
    before = versions(hub)
    hub.publisher.rise()
    after = versions(hub)
    assert all(after[role] == before[role] + RISE + 1 for role in ("timestamp", "snapshot", "models", "channels"))
    lost.see()
    assert channel_version(hub) > channel_version(lost.newer)


def forged(lost: Lost) -> Held:
    """Metadata that somebody with valid credentials, and no key of the hub's, could make of everything that is
    public.
    """
    objects = lost.newer.objects
    files = {info.key: objects.get(info.key).data for info in objects.list("tuf")}
    forge = Forge(files, made_up("root", *ROLES))
    for role in ("targets", "models", "channels"):
        forge.sign(role, forge.signed(role))
    forge.seal()
    bodies = {role: forge.files[forge.key(role)] for role in ROLES}
    root = forge.sign("root", forge.signed("root"), version=2)
    return replace(lost.held(), roots=(root,), **bodies)


def test_a_forgery_lifts_nothing(lost: Lost) -> None:
    lost.live_on()
    lost.see()
    false = forged(lost)
    hub = lost.older()
    before = metadata(hub)
    assert not lift(hub, false)
    assert metadata(hub) == before
    with Session(hub.engine) as session:
        assert not session.exec(select(AuditEntry).where(AuditEntry.action == "trust.lift")).all()


def respaced(body: bytes) -> bytes:
    """The same metadata in other bytes, with a signature more: what anybody can make of it."""
    document = msgspec.json.decode(body)
    document["signatures"].append({"keyid": "0" * 64, "sig": "00" * 64})
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def test_other_bytes_around_what_is_known_are_nothing_new(lost: Lost) -> None:
    lost.see()
    held = lost.held()
    known = metadata(lost.newer)
    assert not verify(known, replace(held, **{role: respaced(getattr(held, role)) for role in ROLES}))


def test_what_is_taken_over_is_what_the_hub_signed_and_nothing_around_it(lost: Lost) -> None:
    ceremony.renew(lost.newer.publisher.transactions, lost.made.offline, PASSPHRASE)  # type: ignore[attr-defined]
    lost.see()
    held = lost.held()
    known = metadata(lost.older())
    plain = verify(known, held)
    noisy = verify(
        known,
        replace(
            held, roots=tuple(map(respaced, held.roots)), **{role: respaced(getattr(held, role)) for role in ROLES}
        ),
    )
    assert plain == noisy and plain.bodies["targets"] == metadata(lost.newer)["targets"]


# ---- the verifier against anything ----------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Held, Held, dict[str, int]]:
    """The metadata that the older hub knows, those of a device, those that an enemy forged, and those that were
    signed.
    """
    lost = Lost(tmp_path_factory.mktemp("scene"))
    known = metadata(lost.newer)
    ceremony.renew(lost.newer.publisher.transactions, lost.made.offline, PASSPHRASE)  # type: ignore[attr-defined]
    lost.live_on()
    lost.see()
    return known, lost.held(), forged(lost), versions(lost.newer)


def changed(body: bytes, draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
    """The bytes, or something made of them."""
    kind = draw(st.sampled_from(["whole", "cut", "flip", "version", "respaced", "empty", "noise", "unsigned"]))
    if not body or kind == "whole":
        return body
    if kind == "cut":
        return body[: draw(st.integers(0, len(body)))]
    if kind == "flip":
        at, by = draw(st.integers(0, len(body) - 1)), draw(st.integers(1, 255))
        return body[:at] + bytes([body[at] ^ by]) + body[at + 1 :]
    if kind in ("empty", "noise"):
        return b"" if kind == "empty" else draw(st.binary(max_size=200))
    document = msgspec.json.decode(body)
    if kind == "version":
        document["signed"]["version"] = draw(
            st.sampled_from([-1, 0, 2, 99, MOST_VERSION, 2**63, 10**30, "7", None, 1.5])
        )
    elif kind == "unsigned":
        document["signatures"] = draw(st.sampled_from([[], None, [{}], [{"keyid": "x", "sig": "y"}]]))
    else:
        return respaced(body)
    return msgspec.json.encode(document)


@st.composite
def claims(draw: Callable[[st.SearchStrategy[Any]], Any], true: Held, false: Held) -> Held:
    """Any mixture of what is held, forged and changed, in any place."""
    pool = [body for one in (true, false) for body in (*(getattr(one, role) for role in ROLES), *one.roots)]
    documents = dict(true.documents)
    for path in draw(st.lists(st.sampled_from([*documents, "channels/x.json", "models/../floor.json", "", "é"]))):
        documents[path] = draw(st.sampled_from([*documents.values(), b"{}", b'{"min_release": 99}']))
    bodies = {role: changed(draw(st.sampled_from([getattr(true, role), *pool])), draw) for role in ROLES}
    roots = draw(st.lists(st.sampled_from([*true.roots, *false.roots, *pool]), max_size=4))
    return Held(roots=tuple(changed(root, draw) for root in roots), documents=documents, **bodies)


@settings(max_examples=examples(200))
@given(data=st.data())
def test_nothing_is_proven_that_was_not_signed(scene: Any, data: st.DataObject) -> None:
    known, true, false, signed = scene
    held = data.draw(claims(true, false))
    found = verify(known, held)
    assert all(
        repository.version_of(known[role]) <= version <= signed[role] for role, version in found.versions.items()
    )
    assert len(found.roots) <= 1 and all(body in true.roots for body in found.roots)
    assert found.channels.items() <= {("stable", 3)} and found.numbers.items() <= {("digits", 1), ("digits", 3)}
    assert all(floor.min_release == 1 and set(floor.withdrawn) <= {2} for floor in found.floors.values())
    genuine = {role: repository.read(getattr(true, role)).signed for role in ROLES}
    assert all(repository.read(body).signed == genuine[role] for role, body in found.bodies.items())


def test_what_was_signed_is_proven(scene: Any) -> None:
    known, true, false, signed = scene
    found = verify(known, true)
    assert found.versions == {role: signed[role] for role in ROLES} and len(found.roots) == 1
    assert (found.channels, found.numbers) == ({"stable": 3}, {"digits": 3})
    assert found.floors["digits"].withdrawn == (2,)
    assert not verify(known, false)


# ---- over HTTP --------------------------------------------------------------------------------------


def test_what_comes_is_bounded_in_size_rate_and_at_once(lost: Lost) -> None:
    lost.live_on()
    lost.see()
    hub = lost.older()
    intake = HeldIntake(hub)
    intake.admit("d-1")
    with pytest.raises(RateError):
        intake.admit("d-1")
    intake.admit("d-2")
    lost.made.clock.advance(10)
    intake.admit("d-1")
    for number in range(10_050):
        intake.admit(f"x-{number}")
    assert len(intake._last) == 10_000
    data, answers = encode_msgpack(lost.held()), []
    lifted = hub.publisher.lift

    def meanwhile(held: Held, **named: Any) -> bool:
        def again() -> None:
            with pytest.raises(BusyError):
                intake.take("d-2", data)
            answers.append("busy")

        thread = threading.Thread(target=again)
        thread.start()
        thread.join()
        return lifted(held, **named)

    object.__setattr__(hub, "publisher", type("Slow", (), {"lift": staticmethod(meanwhile)})())
    assert intake.take("d-1", data) and answers == ["busy"]


def test_devices_alone_may_show_it(hub: HubFixture) -> None:
    for headers in ({}, hub.auth()):
        assert hub.client.post("/device/held", content=b"x", headers=headers).status_code in (401, 403)
    with hub.hub.session() as session:
        session.add(device("cam-1"))
    auth = hub.auth(hub.hub.device_tokens.token("cam-1", now=hub.clock()))
    assert hub.client.post("/device/held", content=b"\xc1", headers=auth).status_code == 400
    assert hub.client.post("/device/held", content=b"\xc1", headers=auth).status_code == 429
    hub.clock.advance(10)
    answer = hub.client.post("/device/held", content=encode_msgpack(Held()), headers=auth)
    assert (answer.status_code, answer.json()) == (200, {"lifted": False})
    hub.clock.advance(10)
    big = encode_msgpack(Held(models=b"x" * (9 << 20)))
    assert hub.client.post("/device/held", content=big, headers=auth).status_code == 413


def test_a_counter_rises_above_a_command_that_the_hub_has_signed_for_this_device(hub: HubFixture) -> None:
    ahead = device("cam-1", command_counter=2**50)
    other = device("cam-2", command_counter=2**51)
    mine, theirs = (
        msgspec.json.encode(signed_receipt(hub.hub, one, Receipt(spool="s", committed=1))) for one in (ahead, other)
    )
    public = hub.hub.command_key.public
    assert proven_counter("cam-1", mine, public) == 2**50 + 1
    document = msgspec.json.decode(mine)
    for broken in (theirs, b"", b"x", mine[:-1], msgspec.json.encode({**document, "signature": document["payload"]})):
        assert proven_counter("cam-1", broken, public) is None
    assert proven_counter("cam-1", mine, bytes(32)) is None
    with hub.hub.session() as session:
        session.add(device("cam-1", command_counter=5))
    intake = HeldIntake(hub.hub)
    assert intake.take("cam-1", encode_msgpack(Held(command=mine)))
    assert not intake.take("cam-1", encode_msgpack(Held(command=mine)))
    with hub.hub.reading() as session:
        row = session.get(Device, "cam-1")
        assert row is not None and row.command_counter == 2**50 + 1

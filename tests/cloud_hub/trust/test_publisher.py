"""Published metadata are accepted by the reference TUF client; a release that must not be published is refused."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlmodel import Session, select

from cloud_hub.config import HubConfig
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.store.tables import AuditEntry, ChannelRow, Metadata, Release
from fleet.protocol.channel import Audit, Channel, ModelEntry, RolloutRef, Rule, decode_channel
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Floor, Gate
from tests.support.hub import PASSPHRASE, HubFixture, make_hub
from tests.support.manifests import small_release
from tests.support.rollouts import names_auditor
from tests.support.tuf_client import client, target


def entry_setter(release: int, **fields: object):  # type: ignore[no-untyped-def]
    def change(channel: Channel) -> Channel:
        return msgspec.structs.replace(channel, models={"digits": ModelEntry(release=release, **fields)})

    return change


@pytest.fixture
def live(tmp_path: Path) -> HubFixture:
    """A hub whose clock is the real one, as the TUF client's is."""
    fixture = make_hub(tmp_path, start=time.time())
    fixture.model()
    return fixture


def test_a_client_sees_release_floor_channel_and_command_key(live: HubFixture, tmp_path: Path) -> None:
    live.release()
    live.hub.publisher.change_channel("stable", entry_setter(1), actor="t")
    updater = client(live.hub.objects, tmp_path / "device")
    manifest, _ = small_release()
    assert target(updater, "models/digits/1.json") == manifest
    floor = target(updater, "models/digits/floor.json")
    assert floor is not None and msgspec.json.decode(floor, type=Floor) == Floor()
    channel = target(updater, "channels/stable.json")
    assert channel is not None and decode_channel(channel).models["digits"].release == 1
    command = target(updater, "hub/command-key.json")
    assert command is not None
    assert msgspec.json.decode(command)["keys"] == {live.hub.command_key.key_id: live.hub.command_key.public.hex()}
    assert target(updater, "models/digits/2.json") is None


def test_numbers_rise_and_versions_rise(hub: HubFixture) -> None:
    hub.model()
    assert [hub.release(seed=n) for n in range(3)] == [1, 2, 3]
    versions = [hub.hub.publisher.change_channel("stable", entry_setter(n), actor="t").version for n in (1, 2, 1)]
    assert versions == [1, 2, 3]


def test_a_reserved_number_is_filled_once(hub: HubFixture) -> None:
    hub.model()
    hub.release()
    publisher = hub.hub.publisher
    number = publisher.reserve("digits", actor="t")
    manifest, _ = small_release()
    assert publisher.publish_release("digits", manifest, actor="t", number=number).number == number == 2
    with pytest.raises(ConflictError, match="published already"):
        publisher.publish_release("digits", manifest, actor="t", number=number)
    with pytest.raises(NotFoundError):
        publisher.publish_release("digits", manifest, actor="t", number=77)
    with pytest.raises(NotFoundError, match="no model"):
        publisher.reserve("letters", actor="t")


def test_a_broken_gate_is_refused(hub: HubFixture) -> None:
    hub.model()
    with pytest.raises(InvalidError, match="drop in points is 3"):
        hub.release(gate=Gate(max_drop_points=1.0), verdict_changes={"drop_points": 3.0})
    manifest, _ = small_release()
    for broken in (manifest.replace(b'"drop_points":0.5', b'"drop_points":null'), manifest[:-1], b"{}", b""):
        with pytest.raises(MalformedError):
            hub.hub.publisher.publish_release("digits", broken, actor="t")


def test_missing_and_wrong_blobs_are_refused(hub: HubFixture) -> None:
    hub.model()
    manifest, blobs = small_release()
    with pytest.raises(InvalidError, match="is not in the store"):
        hub.hub.publisher.publish_release("digits", manifest, actor="t")
    for sha256 in blobs:
        hub.hub.objects.put_new(f"blobs/{sha256}", b"short")
    with pytest.raises(InvalidError, match="has 5 bytes, the manifest says"):
        hub.hub.publisher.publish_release("digits", manifest, actor="t")
    with hub.hub.reading() as session:
        assert session.exec(select(Release)).all() == []


def test_the_sketch_stays_the_model_s(hub: HubFixture) -> None:
    hub.model()
    hub.release(sketch_id="one")
    hub.release(seed=1, sketch_id="one")
    with pytest.raises(ConflictError, match="sketch"):
        hub.release(seed=2, sketch_id="two")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (entry_setter(9), "unknown"),
        (entry_setter(2), "withdrawn"),
        (entry_setter(1, rules=(Rule(groups=("g",), release=8),)), "unknown"),
        (entry_setter(1, audit=Audit(auditor=2)), "withdrawn"),
        (
            entry_setter(1, rollout=RolloutRef(id="r", attempt=1, release=7, from_release=1, share_ppm=1, salt="s")),
            "unknown",
        ),
    ],
)
def test_a_channel_names_published_releases_only(hub: HubFixture, change, why: str) -> None:  # type: ignore[no-untyped-def]
    hub.model()
    hub.release()
    hub.release(seed=1)
    hub.hub.publisher.withdraw("digits", 2, "bad", actor="t")
    with pytest.raises(InvalidError, match=why):
        hub.hub.publisher.change_channel("stable", change, actor="t")
    with hub.hub.reading() as session:
        assert session.get(ChannelRow, "stable") is None


def test_a_release_without_a_cloud_variant_becomes_nobodys_auditor(hub: HubFixture) -> None:
    hub.model()
    hub.release()
    hub.release(seed=1, cloud=None)
    url, headers = "/api/v1/channels/stable/models/digits", hub.auth()
    for wanted in ({"release": 1, "audit": {"auditor": 2}}, {"release": 2, "audit": {"auditor": 2}}):
        answer = hub.client.put(url, json=wanted, headers=headers)
        assert answer.status_code == 400 and "release 2 of 'digits' has no cloud variant" in answer.json()["error"]
        assert "--cloud TEACHER.onnx" in answer.json()["hint"] and "--evidence labels" in answer.json()["hint"]
    assert hub.client.put(url, json={"release": 2, "audit": {"auditor": 1}}, headers=headers).status_code == 200
    with pytest.raises(InvalidError, match="no cloud variant"):
        hub.hub.publisher.change_channel("stable", entry_setter(2, audit=Audit(auditor=2)), actor="t")


def test_an_auditor_of_before_that_cannot_answer_keeps_no_other_change_away(hub: HubFixture) -> None:
    hub.model()
    hub.release()
    hub.release(seed=1, cloud=None)
    hub.hub.publisher.change_channel("stable", entry_setter(1), actor="t")
    names_auditor(hub, 2)
    hub.hub.publisher.change_channel("stable", entry_setter(2, audit=Audit(auditor=2)), actor="t")
    hub.hub.publisher.change_channel("stable", entry_setter(2, audit=Audit(auditor=1)), actor="t")
    with pytest.raises(InvalidError, match="no cloud variant"):
        hub.hub.publisher.change_channel("stable", entry_setter(2, audit=Audit(auditor=2)), actor="t")


def test_a_channel_over_its_bounds_is_refused(hub: HubFixture) -> None:
    hub.model()
    hub.release()
    rules = tuple(Rule(groups=(f"g{n}",), release=1) for n in range(65))
    with pytest.raises(MalformedError, match="64 rules"):
        hub.hub.publisher.change_channel("stable", entry_setter(1, rules=rules), actor="t")
    with pytest.raises(NotFoundError):
        hub.hub.publisher.change_channel("nowhere", entry_setter(1), actor="t", create=False)


def test_withdrawing_reaches_the_device_and_waits_for_channels(live: HubFixture, tmp_path: Path) -> None:
    live.release()
    live.release(seed=1)
    publisher = live.hub.publisher
    publisher.change_channel("stable", entry_setter(2), actor="t")
    with pytest.raises(ConflictError, match="still names release 2"):
        publisher.withdraw("digits", 2, "bad", actor="t")
    publisher.change_channel("stable", entry_setter(1), actor="t")
    assert publisher.withdraw("digits", 2, "bad", actor="t").status == "withdrawn"
    data = target(client(live.hub.objects, tmp_path / "device"), "models/digits/floor.json")
    assert data is not None and "withdrawn" in msgspec.json.decode(data, type=Floor).forbids(2)


def test_the_floor_rises_and_never_sinks(hub: HubFixture) -> None:
    hub.model()
    for seed in range(3):
        hub.release(seed=seed)
    publisher = hub.hub.publisher
    publisher.change_channel("stable", entry_setter(1), actor="t")
    with pytest.raises(ConflictError, match="below 2"):
        publisher.set_floor("digits", 2, actor="t")
    publisher.change_channel("stable", entry_setter(3), actor="t")
    publisher.set_floor("digits", 3, actor="t")
    with pytest.raises(ConflictError, match="never sinks"):
        publisher.set_floor("digits", 2, actor="t")
    with pytest.raises(InvalidError, match="below the floor"):
        publisher.change_channel("stable", entry_setter(2), actor="t")


def test_rows_of_the_caller_change_together_or_not_at_all(hub: HubFixture) -> None:
    hub.model()
    hub.release()

    def fail(session: Session) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        hub.hub.publisher.change_channel("stable", entry_setter(1), actor="t", also=fail)
    with hub.hub.reading() as session:
        assert session.get(ChannelRow, "stable") is None
        assert not session.exec(select(AuditEntry).where(AuditEntry.action == "channel.change")).all()
    channel = hub.hub.publisher.change_channel("stable", entry_setter(1), actor="t", also=lambda session: None)
    assert channel.version == 1


def test_refresh_signs_what_is_due(hub: HubFixture) -> None:
    publisher = hub.hub.publisher
    assert publisher.refresh() == ()
    hub.clock.advance(86_400)
    assert publisher.refresh() == ("timestamp",)
    assert publisher.refresh() == ()
    hub.clock.advance(16 * 86_400)
    assert publisher.refresh() == ("channels", "snapshot", "timestamp")
    assert publisher.expiring(within_days=60) == {}  # type: ignore[attr-defined]
    hub.clock.advance(310 * 86_400)
    assert set(publisher.expiring(within_days=60)) == {"root", "targets", "models"}  # type: ignore[attr-defined]


# ---- a release key that is held elsewhere ------------------------------------------------------


def sign_outside(fixture: HubFixture, payload: bytes) -> str:
    key = load_pem_private_key((fixture.offline / "release.pem").read_bytes(), PASSPHRASE)
    return key.sign(payload).hex()  # type: ignore[union-attr, call-arg]


def test_outside_signature_publishes(tmp_path: Path) -> None:
    fixture = make_hub(tmp_path, release_key="external", start=time.time())
    fixture.model()
    publisher = fixture.hub.publisher
    assert not (fixture.hub.config.keys_dir / "release.pem").exists()
    fixture.release()
    with fixture.hub.reading() as session:
        assert session.get(Release, ("digits", 1)).status == "awaiting-signature"  # type: ignore[union-attr]
    with pytest.raises(InvalidError, match="awaiting-signature"):
        publisher.change_channel("stable", entry_setter(1), actor="t")
    assert target(client(fixture.hub.objects, tmp_path / "d0"), "models/digits/1.json") is None
    wanted = publisher.signing("digits", 1)
    assert publisher.signing("digits", 1) == wanted
    given = {"key_id": wanted.key_id, "version": wanted.version, "actor": "t"}
    with pytest.raises(InvalidError, match="does not fit"):
        publisher.accept_signature("digits", 1, signature="00" * 64, **given)  # type: ignore[arg-type]
    signature = sign_outside(fixture, wanted.payload)
    row = publisher.accept_signature("digits", 1, signature=signature, **given)  # type: ignore[arg-type]
    assert row.status == "published"
    assert target(client(fixture.hub.objects, tmp_path / "d1"), "models/digits/1.json") is not None
    with pytest.raises(ConflictError):
        publisher.accept_signature("digits", 1, signature=signature, **given)  # type: ignore[arg-type]
    publisher.withdraw("digits", 1, "bad", actor="t")
    again = publisher.signing("digits", 1)
    publisher.accept_signature(
        "digits",
        1,
        key_id=again.key_id,
        version=again.version,
        signature=sign_outside(fixture, again.payload),
        actor="t",
    )
    data = target(client(fixture.hub.objects, tmp_path / "d2"), "models/digits/floor.json")
    assert data is not None and msgspec.json.decode(data, type=Floor).withdrawn == (1,)


def test_an_overtaken_payload_is_refused(tmp_path: Path) -> None:
    fixture = make_hub(tmp_path, release_key="external")
    fixture.model()
    publisher = fixture.hub.publisher
    fixture.release()
    fixture.release(seed=1)
    first, second = publisher.signing("digits", 1), publisher.signing("digits", 2)
    for number, wanted in ((1, first), (2, second)):
        signature = sign_outside(fixture, wanted.payload)
        given = {"key_id": wanted.key_id, "version": wanted.version, "signature": signature, "actor": "t"}
        if number == 1:
            publisher.accept_signature("digits", 1, **given)  # type: ignore[arg-type]
        else:
            with pytest.raises(ConflictError, match="not the current one"):
                publisher.accept_signature("digits", 2, **given)  # type: ignore[arg-type]
    assert publisher.signing("digits", 2).version == second.version + 1


def test_config_type(hub: HubFixture) -> None:
    """The configuration that `init` wrote reads back as the one it was made from."""
    assert HubConfig.load(hub.hub.config.directory) == hub.hub.config


def test_every_version_has_a_row(hub: HubFixture) -> None:
    hub.model()
    hub.release()
    with hub.hub.reading() as session:
        rows = session.exec(select(Metadata)).all()
    for row in rows:
        if row.role != "timestamp":
            assert hub.hub.objects.get(f"tuf/metadata/{row.version}.{row.role}.json").data == row.body

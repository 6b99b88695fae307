"""Ceremonies: devices that knew the old keys follow to the new ones, and old keys sign nothing any more."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from cloud_hub.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from cloud_hub.opening.bootstrap import check_offline, offline_keys_inside, open_hub
from cloud_hub.trust import ceremony, keys
from fleet.protocol.channel import Channel
from tests.support.hub import PASSPHRASE, HubFixture, make_hub
from tests.support.tuf_client import client, target


@pytest.fixture
def live(tmp_path: Path) -> HubFixture:
    fixture = make_hub(tmp_path, start=time.time())
    fixture.model()
    fixture.release()
    return fixture


def rotate(fixture: HubFixture, name: str) -> str:
    transactions = fixture.hub.publisher.transactions  # type: ignore[attr-defined]
    return ceremony.rotate(transactions, name, fixture.hub.config.keys_dir, fixture.offline, PASSPHRASE)


def same(channel: Channel) -> Channel:
    return msgspec.structs.replace(channel)


@pytest.mark.parametrize("name", ceremony.ROTATABLE)
def test_a_device_follows_every_rotation(live: HubFixture, tmp_path: Path, name: str) -> None:
    client(live.hub.objects, tmp_path / "device")
    key_id = rotate(live, name)
    hub = open_hub(live.hub.config, clock=live.clock)
    hub.publisher.change_channel("stable", same, actor="t")
    updater = client(live.hub.objects, tmp_path / "device")
    assert target(updater, "models/digits/1.json") is not None
    assert target(updater, "channels/stable.json") is not None
    command = target(updater, "hub/command-key.json")
    assert command is not None and list(msgspec.json.decode(command)["keys"]) == [hub.command_key.key_id]
    if name == "command":
        assert key_id == hub.command_key.key_id != live.hub.command_key.key_id


@pytest.mark.parametrize("name", ["rollout", "snapshot", "timestamp"])
def test_the_old_key_signs_nothing_any_more(live: HubFixture, tmp_path: Path, name: str) -> None:
    """A process that runs on with the old key in memory is told, and publishes nothing."""
    rotate(live, name)
    before = live.hub.objects.get("tuf/metadata/timestamp.json")
    with pytest.raises(ForbiddenError, match="was rotated") as caught:
        live.hub.publisher.change_channel("stable", same, actor="t")
    assert "restart" in caught.value.hint
    assert live.hub.objects.get("tuf/metadata/timestamp.json") == before
    assert target(client(live.hub.objects, tmp_path / "device"), "models/digits/1.json") is not None


def test_a_rotation_that_was_cut_short_is_finished(live: HubFixture, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    class Cut(Exception):
        pass

    def cut(*arguments: object) -> str:
        raise Cut

    monkeypatch.setattr(ceremony, "_put_in_place", cut)
    with pytest.raises(Cut):
        rotate(live, "rollout")
    monkeypatch.undo()
    rotate(live, "rollout")
    open_hub(live.hub.config, clock=live.clock).publisher.change_channel("stable", same, actor="t")
    assert target(client(live.hub.objects, tmp_path / "device"), "channels/stable.json") is not None


def test_renewing_gives_another_year(live: HubFixture) -> None:
    publisher = live.hub.publisher
    live.clock.advance(330 * 86_400)
    assert {"root", "targets"} <= set(publisher.expiring(within_days=60))  # type: ignore[attr-defined]
    assert ceremony.renew(publisher.transactions, live.offline, PASSPHRASE) == ("root", "targets", "models")  # type: ignore[attr-defined]
    assert publisher.expiring(within_days=60) == {}  # type: ignore[attr-defined]


def test_a_wrong_passphrase_changes_nothing(live: HubFixture) -> None:
    before = live.hub.objects.get("tuf/metadata/timestamp.json")
    transactions = live.hub.publisher.transactions  # type: ignore[attr-defined]
    for passphrase in (b"wrong", None):
        with pytest.raises(ForbiddenError):
            ceremony.renew(transactions, live.offline, passphrase)
    with pytest.raises(NotFoundError, match=r"no root\.pem"):
        ceremony.renew(transactions, live.hub.config.directory, PASSPHRASE)
    with pytest.raises(InvalidError, match="no key is called"):
        rotate(live, "tls")
    assert live.hub.objects.get("tuf/metadata/timestamp.json") == before


def test_key_files(live: HubFixture) -> None:
    for folder in (live.hub.config.keys_dir, live.offline):
        for path in folder.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path
    for name in keys.OFFLINE:
        assert b"ENCRYPTED" in (live.offline / f"{name}.pem").read_bytes()
        assert not (live.hub.config.keys_dir / f"{name}.pem").exists()


def test_offline_keys_stay_outside(live: HubFixture, tmp_path: Path) -> None:
    with pytest.raises(ForbiddenError, match="must not lie inside"):
        check_offline(tmp_path / "hub", tmp_path / "hub" / "offline")
    assert offline_keys_inside(live.hub.config.directory) is None
    hidden = live.hub.config.directory / "usb"
    hidden.mkdir()
    (hidden / "root.pem").write_bytes(b"key")
    assert offline_keys_inside(live.hub.config.directory) == hidden / "root.pem"


def test_a_hub_is_made_once(live: HubFixture, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="holds a hub already"):
        make_hub(tmp_path)

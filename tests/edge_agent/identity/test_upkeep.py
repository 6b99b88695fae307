"""The process that keeps the identity, as a look starts it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_agent.config import load_config
from edge_agent.identity import pairs, upkeep
from edge_agent.identity.certificates import fits
from edge_agent.identity.enroll import load_enrollment
from edge_agent.identity.http import HubHttp
from fleet.protocol.messages import IN_USE_TWICE, DeviceMe, MqttEndpoint
from tests.support.device import enrolled_with
from tests.support.hub import HubFixture, make_hub

MINE = DeviceMe(device_id="cam-1", channel="stable")
BROKER = MqttEndpoint(host="broker.example", port=8883, tls=True)


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    return make_hub(tmp_path)


@pytest.fixture
def device(hub: HubFixture, tmp_path: Path):
    with enrolled_with(hub, tmp_path / "agent") as directory:
        yield directory


def keep(device: Path, **changes):
    at_hub = changes.pop("at_hub", True)
    return upkeep.keep_identity(load_config(device), msgspec.structs.replace(MINE, **changes), at_hub=at_hub)


def test_it_renews_and_follows_in_one_go_and_the_hub_takes_the_new_key(device: Path) -> None:
    before = (device / "identity" / pairs.KEY).read_bytes()
    assert keep(device, renew=True, mqtt=BROKER) == upkeep.IdentityTrouble()
    assert (device / "identity" / pairs.KEY).read_bytes() != before and fits(device / "identity")
    assert load_enrollment(device).mqtt == BROKER
    assert HubHttp(device).request("GET", "/device/me").status == 200


def test_a_damaged_certificate_is_renewed_at_a_hub_and_left_alone_from_a_bundle(device: Path) -> None:
    certificate = device / "identity" / pairs.CERTIFICATE
    certificate.write_text("no certificate")
    assert keep(device, at_hub=False) == upkeep.IdentityTrouble() and certificate.read_text() == "no certificate"
    assert keep(device) == upkeep.IdentityTrouble() and fits(device / "identity")


def test_without_anything_to_do_no_process_is_started(device: Path, monkeypatch) -> None:
    monkeypatch.setattr(upkeep.sys, "executable", "/nowhere/python")
    assert keep(device, mqtt=load_enrollment(device).mqtt) == upkeep.IdentityTrouble()
    assert keep(device, in_use_twice=True).word == IN_USE_TWICE
    lost = keep(device, renew=True)
    assert lost.word == "certificate-not-renewed" and "/nowhere/python" in lost.detail


def test_a_broker_that_can_be_none_is_named_and_the_certificate_renewed_all_the_same(device: Path) -> None:
    before = (device / "identity" / pairs.KEY).read_bytes()
    trouble = keep(device, renew=True, mqtt=msgspec.structs.replace(BROKER, host=""))
    assert trouble.word == "broker-not-followed" and "port 8883" in trouble.detail
    assert (device / "identity" / pairs.KEY).read_bytes() != before

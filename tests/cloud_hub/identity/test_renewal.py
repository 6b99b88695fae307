"""Certificates after the first one, over HTTP, with keys that a device would make."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlmodel import select

from cloud_hub.broker.revocation import Revocations
from cloud_hub.config import HubConfig
from cloud_hub.identity.own import renew_own, valid_for
from cloud_hub.identity.renewal import MOST
from cloud_hub.store.tables import AuditEntry, CertificateRow, Device
from fleet.protocol.messages import DeviceMe, EnrollRequest, EnrollResponse, RenewRequest, RenewResponse, TokenRequest
from fleet.protocol.messages import renewal_bytes as signed
from tests.support.device import claim
from tests.support.device_key import DeviceKey
from tests.support.hub import HubFixture

DAY = 86_400
LIFE = 90 * DAY


def nonce(hub: HubFixture, device: str = "cam-1") -> str:
    return str(hub.client.post("/device/nonce", json={"device_id": device}).json()["nonce"])


def enrolled(hub: HubFixture) -> DeviceKey:
    key = DeviceKey()
    _, token, secret, _ = claim(hub).split(".")
    request = EnrollRequest(token=token, secret=secret, csr=key.csr(), name="cam-1")
    answer = hub.client.post("/enroll", content=msgspec.json.encode(request))
    assert msgspec.json.decode(answer.content, type=EnrollResponse).device_id == "cam-1"
    return key


def ask(hub: HubFixture, signer: DeviceKey, key: DeviceKey | None = None, **changes: Any) -> Any:
    csr, one = (key or signer).csr(), nonce(hub)
    signature = signer.key.sign(signed(one, csr), ec.ECDSA(hashes.SHA256()))
    fields = {"device_id": "cam-1", "nonce": one, "csr": csr, "signature": signature, **changes}
    return hub.client.post("/device/renew", content=msgspec.json.encode(RenewRequest(**fields)))


def renewed(hub: HubFixture, signer: DeviceKey, key: DeviceKey | None = None) -> x509.Certificate:
    answer = ask(hub, signer, key)
    assert answer.status_code == 200, answer.text
    found = msgspec.json.decode(answer.content, type=RenewResponse)
    certificate = x509.load_pem_x509_certificate(found.certificate.encode())
    assert certificate.not_valid_after_utc.timestamp() == found.expires_at
    return certificate


def buys(hub: HubFixture, key: DeviceKey) -> bool:
    one = nonce(hub)
    request = TokenRequest(device_id="cam-1", nonce=one, signature=key.sign(one))
    answer = hub.client.post("/device/token", content=msgspec.json.encode(request))
    assert answer.status_code in (200, 401), answer.text
    return answer.status_code == 200


def me(hub: HubFixture, key: DeviceKey) -> DeviceMe:
    one = nonce(hub)
    request = TokenRequest(device_id="cam-1", nonce=one, signature=key.sign(one))
    token = hub.client.post("/device/token", content=msgspec.json.encode(request)).json()["token"]
    return msgspec.json.decode(hub.client.get("/device/me", headers=hub.auth(token)).content, type=DeviceMe)


def rows(hub: HubFixture, kind: Any) -> list[Any]:
    with hub.hub.reading() as session:
        return list(session.exec(select(kind)))


def actions(hub: HubFixture) -> list[str]:
    return [entry.action for entry in rows(hub, AuditEntry) if entry.action.startswith("device.")]


def test_it_is_due_after_half_of_the_life_and_at_the_latest_a_tenth_later(hub):
    key = enrolled(hub)
    assert me(hub, key).renew is False
    hub.clock.advance(LIFE * 0.49)
    assert me(hub, key).renew is False
    hub.clock.advance(LIFE * 0.12)
    assert me(hub, key).renew is True
    renewed(hub, key)
    assert me(hub, key).renew is False


def test_the_same_key_gets_one_certificate_per_half_life(hub):
    key = enrolled(hub)
    (first,) = rows(hub, Device)
    assert renewed(hub, key).serial_number == int(first.certificate_serial, 16)
    hub.clock.advance(LIFE / 2 + 1)
    again = renewed(hub, key)
    assert again.serial_number != int(first.certificate_serial, 16)
    assert renewed(hub, key) == again
    assert again.public_key() == key.key.public_key()
    assert sorted(row.state for row in rows(hub, CertificateRow)) == ["current", "replaced"]


def test_a_fresh_key_counts_once_it_has_been_used_and_the_old_one_until_then(hub):
    old, new = enrolled(hub), DeviceKey()
    hub.clock.advance(LIFE / 2 + 1)
    certificate = renewed(hub, old, new)
    assert certificate.public_key() == new.key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=cam-1"
    assert renewed(hub, old, new) == certificate  # the answer was lost, the device asks again
    assert buys(hub, old) and rows(hub, Device)[0].certificate_serial != format(certificate.serial_number, "x")
    assert buys(hub, new)
    assert rows(hub, Device)[0].certificate_serial == format(certificate.serial_number, "x")
    assert not buys(hub, old) and buys(hub, new)
    assert ask(hub, old, DeviceKey()).status_code == 401
    assert actions(hub) == ["device.enroll", "device.renew", "device.new-key"]


def test_a_device_that_lost_its_fresh_key_makes_another(hub):
    old, lost, new = enrolled(hub), DeviceKey(), DeviceKey()
    renewed(hub, old, lost)
    renewed(hub, old, new)
    assert not buys(hub, lost) and buys(hub, new)


def test_an_expired_certificate_is_no_end_and_the_audit_log_says_so(hub):
    key = enrolled(hub)
    hub.clock.advance(LIFE + 30 * DAY)
    assert me(hub, key).renew is True
    assert renewed(hub, key, DeviceKey()).not_valid_after_utc.timestamp() > hub.clock()
    assert actions(hub) == ["device.enroll", "device.re-enrol"]


def test_revoking_covers_every_certificate_that_has_not_expired(hub):
    key = enrolled(hub)
    first = rows(hub, Device)[0].certificate_serial
    hub.clock.advance(LIFE / 2 + 1)
    second, pending = renewed(hub, key), renewed(hub, key, DeviceKey())
    revocations = Revocations(hub.hub)
    serials = lambda: set(revocations.read().serials)  # noqa: E731
    assert serials() == set()
    assert hub.client.post("/api/v1/devices/cam-1/revoke", headers=hub.auth()).status_code == 200
    newer = {format(one.serial_number, "x") for one in (second, pending)}
    assert serials() == {first, *newer}
    hub.clock.advance(LIFE / 2 + 2 * DAY)
    assert serials() == newer
    assert ask(hub, key).status_code == 401 and not buys(hub, key)


@pytest.mark.parametrize("kind", ["stranger", "nonce", "other-csr", "other-device"])
def test_who_cannot_prove_the_enrolled_key_gets_nothing(hub, kind):
    key, other = enrolled(hub), DeviceKey()
    answer = {
        "stranger": lambda: ask(hub, other),
        "nonce": lambda: ask(hub, key, nonce=nonce(hub, "cam-2")),
        "other-csr": lambda: ask(hub, key, csr=other.csr()),
        "other-device": lambda: ask(hub, key, device_id="cam-2", nonce=nonce(hub, "cam-2")),
    }[kind]()
    assert answer.status_code == 401
    assert len(rows(hub, CertificateRow)) == 1


def test_an_old_nonce_is_refused(hub):
    key = enrolled(hub)
    old = nonce(hub)
    hub.clock.advance(61)
    assert ask(hub, key, nonce=old).status_code == 401


def test_nobody_fills_the_revocation_list(hub):
    key = enrolled(hub)
    for _ in range(MOST - 1):
        renewed(hub, key, DeviceKey())
    assert ask(hub, key, DeviceKey()).status_code == 429
    hub.clock.advance(LIFE + 1)
    renewed(hub, key, DeviceKey())


def test_enrolling_again_after_a_renewal_is_still_the_same_device(hub):
    old, new = DeviceKey(), DeviceKey()
    _, token, secret, _ = claim(hub).split(".")

    def enroll(key: DeviceKey) -> Any:
        request = EnrollRequest(token=token, secret=secret, csr=key.csr(), name="cam-1")
        return hub.client.post("/enroll", content=msgspec.json.encode(request))

    assert enroll(old).status_code == 200
    certificate = renewed(hub, old, new)
    assert buys(hub, new)
    answer = msgspec.json.decode(enroll(new).content, type=EnrollResponse)
    assert x509.load_pem_x509_certificate(answer.certificate.encode()) == certificate
    assert enroll(old).status_code == 409


def test_the_hub_renews_its_own_certificates_after_half_of_their_life(hub):
    config, root = hub.hub.config, x509.load_pem_x509_certificate(hub.hub.authority.ca_pem)
    files = (config.server_certificate, config.client_certificate)
    before = [x509.load_pem_x509_certificate(path.read_bytes()) for path in files]
    assert renew_own(config, hub.clock() + 400 * DAY) == ()
    assert renew_own(config, hub.clock() + 1000 * DAY) == tuple(path.name for path in files)
    for path, key, old in zip(files, (config.server_key, config.client_key), before, strict=True):
        found = x509.load_pem_x509_certificate(path.read_bytes())
        found.verify_directly_issued_by(root)
        assert found.not_valid_after_utc > old.not_valid_after_utc and found.subject == old.subject
        private = load_pem_private_key(key.read_bytes(), password=None)
        assert found.public_key() == old.public_key() == private.public_key()
        assert [e.value for e in found.extensions] == [e.value for e in old.extensions]
    assert renew_own(config, hub.clock() + 1001 * DAY) == ()


def test_the_hub_renews_its_certificate_for_an_address_that_it_gets(hub):
    config = hub.hub.config
    named = HubConfig.load(config.directory, host="0.0.0.0", hostnames=("hub.example", "192.0.2.7"))
    assert renew_own(named, hub.clock()) == (config.server_certificate.name,)
    certificate = x509.load_pem_x509_certificate(config.server_certificate.read_bytes())
    assert valid_for(certificate) == {"hub.example", "192.0.2.7", "localhost", "127.0.0.1", "::1"}
    assert renew_own(named, hub.clock()) == ()
    assert renew_own(config, hub.clock()) == ()  # more names than are needed do no harm
    elsewhere = HubConfig.load(config.directory, host="192.0.2.8")
    assert renew_own(elsewhere, hub.clock()) == (config.server_certificate.name,)


@pytest.mark.parametrize("lost", ["server.pem", "server.key", "hub-client.pem", "hub-client.key"])
def test_a_certificate_or_key_of_the_hub_that_is_lost_is_made_anew(hub, lost):
    config = hub.hub.config
    (config.keys_dir / lost).unlink()
    assert renew_own(config, hub.clock()) == (lost.partition(".")[0] + ".pem",)
    for certificate, key in (
        (config.server_certificate, config.server_key),
        (config.client_certificate, config.client_key),
    ):
        private = load_pem_private_key(key.read_bytes(), password=None)
        assert x509.load_pem_x509_certificate(certificate.read_bytes()).public_key() == private.public_key()
    assert renew_own(config, hub.clock()) == ()

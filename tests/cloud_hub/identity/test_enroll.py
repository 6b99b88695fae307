"""Enrolment and device tokens over HTTP, with a key that a device would make."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cloud_hub.identity.ca import HUB_IDENTITY, Authority, create_authority
from fleet.protocol.messages import EnrollRequest, EnrollResponse, TokenRequest, TrustBundle
from tests.support.device_key import DeviceKey
from tests.support.hub import HubFixture


def claim(hub: HubFixture, **fields: Any) -> tuple[str, str, str]:
    """Id, secret and pin of a new claim token, made over HTTP."""
    hub.channel()
    body = {"kind": "claim", "channel": "stable", **fields}
    answer = hub.client.post("/api/v1/tokens", json=body, headers=hub.auth())
    assert answer.status_code == 201, answer.text
    prefix, token_id, secret, pin = answer.json()["token"].split(".")
    assert prefix == "el1"
    return token_id, secret, pin


def enroll(hub: HubFixture, token: str, secret: str, key: DeviceKey, **fields: Any) -> Any:
    request = EnrollRequest(token=token, secret=secret, csr=key.csr(), **fields)
    return hub.client.post("/enroll", content=msgspec.json.encode(request))


def enrolled(hub: HubFixture, **fields: Any) -> tuple[DeviceKey, EnrollResponse]:
    token, secret, _ = claim(hub)
    key = DeviceKey()
    answer = enroll(hub, token, secret, key, **fields)
    assert answer.status_code == 200, answer.text
    return key, msgspec.json.decode(answer.content, type=EnrollResponse)


def bearer(hub: HubFixture, key: DeviceKey, device_id: str) -> str:
    nonce = hub.client.post("/device/nonce", json={"device_id": device_id}).json()["nonce"]
    request = TokenRequest(device_id=device_id, nonce=nonce, signature=key.sign(nonce))
    answer = hub.client.post("/device/token", content=msgspec.json.encode(request))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


def test_the_pin_covers_root_and_ca(hub: HubFixture) -> None:
    _, _, pin = claim(hub)
    bundle = msgspec.json.decode(hub.client.get("/enroll/trust").content, type=TrustBundle)
    assert hashlib.sha256(bundle.root + bundle.ca).hexdigest() == pin


def test_the_certificate_names_the_device_and_chains_to_the_ca(hub: HubFixture) -> None:
    key, answer = enrolled(hub, name="kiosk-1")
    certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
    ca = x509.load_pem_x509_certificate(answer.ca.encode())
    certificate.verify_directly_issued_by(ca)
    assert certificate.subject.rfc4514_string() == "CN=kiosk-1"
    assert certificate.public_key() == key.key.public_key()
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 90
    assert (answer.device_id, answer.channel) == ("kiosk-1", "stable")


def test_without_a_name_the_key_gives_it(hub: HubFixture) -> None:
    _, answer = enrolled(hub)
    assert answer.device_id.startswith("d-") and len(answer.device_id) == 18


def test_enrolling_again_gives_the_same_answer(hub: HubFixture) -> None:
    token, secret, _ = claim(hub, labels={"site": "berlin"})
    key = DeviceKey()
    first, second = (enroll(hub, token, secret, key, name="kiosk") for _ in range(2))
    assert first.status_code == second.status_code == 200
    assert first.json() == second.json()
    hub.clock.advance(2 * 86_400)
    assert enroll(hub, token, secret, key).json() == first.json()
    hub.clock.advance(60 * 86_400)
    renewed = enroll(hub, token, secret, key)
    assert renewed.status_code == 200 and renewed.json()["certificate"] != first.json()["certificate"]


def test_a_token_enrols_one_key(hub: HubFixture) -> None:
    token, secret, _ = claim(hub)
    assert enroll(hub, token, secret, DeviceKey()).status_code == 200
    answer = enroll(hub, token, secret, DeviceKey())
    assert answer.status_code == 409 and answer.json()["hint"] == "make one token per device"


def test_a_name_is_taken_once_and_a_key_has_one_name(hub: HubFixture) -> None:
    key, _ = enrolled(hub, name="kiosk")
    token, secret, _ = claim(hub)
    assert enroll(hub, token, secret, DeviceKey(), name="kiosk").status_code == 409
    assert enroll(hub, token, secret, key, name="other").status_code == 409
    assert enroll(hub, token, secret, key).json()["device_id"] == "kiosk"


@pytest.mark.parametrize("name", ["+", "#", "a/b", "$sys", "Kiosk", HUB_IDENTITY, "x" * 64, "a.b", "-a"])
def test_names_with_a_meaning_are_refused(hub: HubFixture, name: str) -> None:
    token, secret, _ = claim(hub)
    answer = enroll(hub, token, secret, DeviceKey(), name=name)
    assert answer.status_code == 400 and "device name" in answer.json()["error"]
    assert enroll(hub, token, secret, DeviceKey()).status_code == 200


def test_wrong_expired_and_revoked_tokens_are_refused(hub: HubFixture) -> None:
    token, secret, _ = claim(hub)
    assert enroll(hub, token, "wrong", DeviceKey()).status_code == 401
    assert enroll(hub, "nobody", secret, DeviceKey()).status_code == 401
    _, operator, operator_secret = hub.admin_token.split(".")
    assert enroll(hub, operator, operator_secret, DeviceKey()).status_code == 401
    hub.clock.advance(86_401)
    assert enroll(hub, token, secret, DeviceKey()).status_code == 401
    token, secret, _ = claim(hub)
    assert hub.client.delete(f"/api/v1/tokens/{token}", headers=hub.auth()).status_code == 200
    assert enroll(hub, token, secret, DeviceKey()).status_code == 401


def test_other_keys_and_other_bytes_are_refused(hub: HubFixture) -> None:
    token, secret, _ = claim(hub)
    big = DeviceKey(rsa.generate_private_key(65537, 2048))
    other_curve = DeviceKey(ec.generate_private_key(ec.SECP384R1()))
    for key in (big, other_curve):
        assert enroll(hub, token, secret, key).json()["error"] == "the device key must be EC P-256"
    for csr in ("", "-----BEGIN", "ü"):
        body = {"token": token, "secret": secret, "csr": csr}
        assert hub.client.post("/enroll", json=body).status_code == 400
    for content in (b"", b"[]", b"{", b'{"token":1}', b"\xff"):
        assert hub.client.post("/enroll", content=content).status_code == 400
    assert hub.client.post("/enroll", content=b" " * (1 << 20) + b"{}").status_code == 413


def test_a_device_gets_a_token_and_sees_what_is_its_own(hub: HubFixture) -> None:
    key, answer = enrolled(hub, name="kiosk")
    token = bearer(hub, key, "kiosk")
    change = {"labels": {"site": "berlin"}}
    shown = hub.client.patch("/api/v1/devices/kiosk", json=change, headers=hub.auth()).json()
    mine = hub.client.get("/device/me", headers=hub.auth(token)).json()
    assert mine["device_id"] == "kiosk" and mine["channel"] == "stable" and mine["pins"] == {}
    assert mine["groups"] == shown["groups"] and len(mine["groups"]) == 1 and "berlin" not in mine["groups"][0]
    assert mine["mqtt"]["port"] == answer.mqtt.port
    assert hub.client.get("/tuf/metadata/timestamp.json", headers=hub.auth(token)).status_code == 200
    hub.clock.advance(3601)
    assert hub.client.get("/device/me", headers=hub.auth(token)).status_code == 401


def test_nonces_are_one_device_s_and_short_lived(hub: HubFixture) -> None:
    key, _ = enrolled(hub, name="one")
    other, _ = enrolled(hub, name="two")

    def ask(device_id: str, nonce: str, signature: bytes) -> int:
        request = TokenRequest(device_id=device_id, nonce=nonce, signature=signature)
        return int(hub.client.post("/device/token", content=msgspec.json.encode(request)).status_code)

    nonce = hub.client.post("/device/nonce", json={"device_id": "one"}).json()["nonce"]
    assert ask("one", nonce, other.sign(nonce)) == 401
    assert ask("two", nonce, other.sign(nonce)) == 401
    assert ask("one", nonce[:-1] + "x", key.sign(nonce[:-1] + "x")) == 401
    assert ask("nobody", nonce, key.sign(nonce)) == 401
    assert ask("one", nonce, b"") == 401
    assert ask("one", nonce, key.sign(nonce)) == 200
    hub.clock.advance(61)
    assert ask("one", nonce, key.sign(nonce)) == 401


def test_a_forged_token_is_refused(hub: HubFixture) -> None:
    key, _ = enrolled(hub, name="one")
    token = bearer(hub, key, "one")
    prefix, device, expiry, mac = token.split(".")
    for forged in (
        f"{prefix}.two.{expiry}.{mac}",
        f"{prefix}.{device}.{int(expiry) + 9}.{mac}",
        token + "x",
        "eld1.a.b.c",
    ):
        assert hub.client.get("/device/me", headers=hub.auth(forged)).status_code == 401


def test_revoking_is_at_once(hub: HubFixture) -> None:
    key, _ = enrolled(hub, name="kiosk")
    token = bearer(hub, key, "kiosk")
    assert hub.client.post("/api/v1/devices/kiosk/revoke", headers=hub.auth()).json()["state"] == "revoked"
    assert hub.client.get("/device/me", headers=hub.auth(token)).status_code == 401
    nonce = hub.client.post("/device/nonce", json={"device_id": "kiosk"}).json()["nonce"]
    request = TokenRequest(device_id="kiosk", nonce=nonce, signature=key.sign(nonce))
    assert hub.client.post("/device/token", content=msgspec.json.encode(request)).status_code == 401
    claimed, secret, _ = claim(hub)
    assert enroll(hub, claimed, secret, key, name="kiosk").status_code == 409


def test_server_certificate_and_revocation_list() -> None:
    now = time.time()
    authority = Authority(create_authority(now))
    server = x509.load_pem_x509_certificate(authority.server(("hub.example", "10.0.0.5"), now).certificate)
    server.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.ca_pem))
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.example", "localhost"]
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["10.0.0.5", "127.0.0.1", "::1"]
    listed = x509.load_pem_x509_crl(authority.revocation_list(("ff",), now))
    assert listed.get_revoked_certificate_by_serial_number(255) is not None

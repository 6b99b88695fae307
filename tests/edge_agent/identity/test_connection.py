"""The reasons for which the agent connects anew: another certificate, key, authority, broker or channel, and
nothing else.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from edge_agent.config import load_config
from edge_agent.identity import connection as subject
from edge_agent.identity.connection import Links
from edge_agent.identity.enroll import FILE, load_enrollment
from edge_agent.identity.signer import LocalSigner
from edge_agent.update.disk.state import Looked
from fleet.protocol.codec import encode_json
from tests.support.agent_process import enrolled


def told(directory: Path, **mqtt: object) -> None:
    """Rewrite the enrolment with another broker."""
    known = load_enrollment(directory)
    changed = msgspec.structs.replace(known, mqtt=msgspec.structs.replace(known.mqtt, **mqtt))
    (directory / "identity" / FILE).write_bytes(encode_json(changed))


@pytest.fixture
def device(tmp_path: Path) -> Path:
    directory = enrolled(tmp_path / "device")
    told(directory, tls=True)
    return directory


@pytest.fixture
def links(device: Path) -> Links:
    return Links(load_config(device), LocalSigner(device / "identity"))


def test_looks_that_change_nothing_load_no_certificate_again(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    first = links.changed(Looked())
    assert first is not None and first.context is not None
    monkeypatch.setattr(subject, "client_context", lambda *_, **__: pytest.fail("nothing has changed"))
    assert links.changed(Looked()) is None and links.problem() == {}


def test_another_broker_or_identity_is_another_link(links: Links, device: Path, tmp_path: Path) -> None:
    links.changed(Looked())
    told(device, port=8884)
    link = links.changed(Looked())
    assert link is not None and link.endpoint.port == 8884
    renewed = enrolled(tmp_path / "renewed") / "identity"
    for name in ("ca.pem", "device.key", "device.crt"):
        shutil.copy(renewed / name, device / "identity" / name)
    link = links.changed(Looked())
    assert link is not None and link.context is not None
    assert links.changed(Looked()) is None


def test_a_key_with_a_passphrase_is_said_and_no_terminal_asked(links: Links, device: Path) -> None:
    path = device / "identity" / "device.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)  # as an operator may
    )
    assert links.changed(Looked()) is None and links.problem()["problem"] == "bad-certificate"


def test_a_damage_is_said_and_one_that_passes_costs_no_connection(links: Links, device: Path) -> None:
    links.changed(Looked())
    key = device / "identity" / "device.key"
    whole = key.read_bytes()
    key.write_bytes(whole[:60])
    assert links.changed(Looked()) is None and links.problem()["problem"] == "bad-certificate"
    key.write_bytes(whole)
    assert links.changed(Looked()) is None and links.problem() == {}

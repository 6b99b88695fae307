"""A new certificate before the old one ends, or after; and following what the hub says about the broker.

Runs in a process of its own (`upkeep`). The hub says when it is time (`DeviceMe.renew`), since this device's
clock may be wrong. A fresh key is made each time; see `pairs` for how nothing is lost in between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.errors import IdentityError
from edge_agent.host.durable import write_durably
from edge_agent.identity import pairs
from edge_agent.identity.certificates import check_certificate
from edge_agent.identity.enroll import load_enrollment, write_enrollment
from edge_agent.identity.keys import load_key, load_or_make_key, sign_renewal, signing_request
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import DeviceMe, NonceResponse, RenewRequest, RenewResponse

T = TypeVar("T")


class HubDoor(Protocol):
    """Calls that need no token, and proving the device's key anew; `HubHttp` is one."""

    device_id: str

    def ask(self, path: str, body: bytes, kind: type[T], timeout: float = 30.0) -> T:
        """POST without a token.

        Args:
            path: of the hub's API.
            body: encoded already.
            kind: the struct that the answer is.
            timeout: seconds of silence.

        Raises:
            DeniedError: the hub refuses this device.
            UnreachableError: no answer, or not this one.
        """

    def log_in(self, timeout: float = 30.0) -> None:
        """Buy a new token, with the next key when there is one; raises DeniedError, UnreachableError."""


def renew_pair(hub: HubDoor, identity: Path) -> None:
    """Get a certificate for a fresh key, prove that key, and let the pair replace the old one.

    Raises:
        DeniedError: the hub refuses the enrolled key: this device was revoked.
        UnreachableError: no answer; the next look goes on where this one stopped.
        IdentityError: the hub's answer is no certificate for this key.
    """
    if (identity / pairs.NEXT_CERTIFICATE).exists():
        pairs.discard_next(identity)  # whoever called us has logged in, and not with it: the hub does not take it
    key = _next_key(identity)
    csr = signing_request(key, hub.device_id)
    nonce = hub.ask("/device/nonce", encode_json({"device_id": hub.device_id}), NonceResponse).nonce
    signature = sign_renewal(load_key(identity / pairs.KEY), nonce, csr)
    request = RenewRequest(device_id=hub.device_id, nonce=nonce, csr=csr, signature=signature)
    answer = hub.ask("/device/renew", encode_json(request), RenewResponse)
    check_certificate(answer.certificate, key.public_key(), (identity / "ca.pem").read_bytes())
    write_durably(identity / pairs.NEXT_CERTIFICATE, answer.certificate.encode())
    hub.log_in()


def _next_key(identity: Path) -> ec.EllipticCurvePrivateKey:
    """The key of a renewal under way, or a fresh one; a file that was damaged since gives way."""
    try:
        return load_or_make_key(identity / pairs.NEXT_KEY)
    except IdentityError:
        pairs.discard_next(identity)
        return load_or_make_key(identity / pairs.NEXT_KEY)


def follow_broker(directory: Path, mine: DeviceMe) -> bool:
    """Keep the broker that the hub names now; true when it is another one than before.

    Raises:
        IdentityError: it names none that a device could connect to. The one before stays.
    """
    enrollment = load_enrollment(directory)
    if mine.mqtt is None or mine.mqtt == enrollment.mqtt:
        return False
    if not mine.mqtt.host or not 0 < mine.mqtt.port < 1 << 16:
        raise IdentityError(
            f"the hub names a broker at {mine.mqtt.host[:80]!r}, port {mine.mqtt.port}",
            subject=enrollment.hub,
            hint="set [broker] host and port in the hub's hub.toml",
        )
    write_enrollment(directory / "identity", msgspec.structs.replace(enrollment, mqtt=mine.mqtt))
    return True

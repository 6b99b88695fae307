"""Stateless credentials of devices: a nonce to sign (60 s) and the bearer token it buys (1 h).

Both are `<prefix>.<device id>.<expiry>.<HMAC-SHA256>` under a secret in DIR/keys that all replicas
share. Revocation is checked against the database by the caller, so it works at once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_hub.clock import lies_ahead
from cloud_hub.errors import UnauthenticatedError

NONCE_LIFE_S = 60
TOKEN_LIFE_S = 3600
SIGNED_PREFIX = b"edgeloop-token:"
_NONCE, _TOKEN = "eln1", "eld1"  # prefixes, not secrets
_LIVES = {_NONCE: NONCE_LIFE_S, _TOKEN: TOKEN_LIFE_S}


class DeviceTokens:
    """Makes and checks nonces and tokens. Times are Unix seconds."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.group_secret = hmac.new(secret, b"groups", hashlib.sha256).digest()

    def nonce(self, device_id: str, *, now: float) -> str:
        """A nonce for `device_id`, valid for 60 s."""
        return self._make(_NONCE, device_id, now + NONCE_LIFE_S)

    def check_nonce(self, device_id: str, nonce: str, *, now: float) -> None:
        """Check that a nonce is ours, this device's and not too old.

        Args:
            device_id: the device that answers with it.
            nonce: as `nonce` made it.
            now: Unix seconds.

        Raises:
            UnauthenticatedError: it is not.
        """
        if self._check(_NONCE, nonce, now) != device_id:
            raise _refused("the nonce is another device's")

    def token(self, device_id: str, *, now: float) -> str:
        """A bearer token for a device that has proven its key."""
        return self._make(_TOKEN, device_id, now + TOKEN_LIFE_S)

    def looks_like(self, text: str) -> bool:
        """Return whether `text` claims to be a device's bearer token."""
        return text.startswith(_TOKEN + ".")

    def verify_token(self, text: str, *, now: float) -> str:
        """The device id of a bearer token; UnauthenticatedError when it is not valid (any more)."""
        return self._check(_TOKEN, text, now)

    @staticmethod
    def ends_at(text: str) -> float:
        """Read the end of a token that has been verified, in Unix seconds."""
        return float(text.split(".")[2])

    def _make(self, prefix: str, device_id: str, expires: float) -> str:
        body = f"{prefix}.{device_id}.{int(expires)}"
        return f"{body}.{self._mac(body)}"

    def _check(self, prefix: str, text: str, now: float) -> str:
        parts = text.split(".")
        if len(parts) != 4 or parts[0] != prefix or not parts[2].isascii() or not parts[2].isdigit():
            raise _refused("the token is not valid")
        body, _, mac = text.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(body).encode()):
            raise _refused("the token is not valid")
        expires = int(parts[2])
        if now >= expires or lies_ahead(expires, now, _LIVES[prefix]):
            raise _refused("the token has expired")
        return parts[1]

    def _mac(self, body: str) -> str:
        digest = hmac.new(self._secret, body.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def check_signature(public_key: str, signature: bytes, message: bytes) -> None:
    """Check a signature.

    Args:
        public_key: PEM.
        signature: ECDSA-SHA256, DER.
        message: the signed bytes.

    Raises:
        UnauthenticatedError: the key did not sign the message.
    """
    key = serialization.load_pem_public_key(public_key.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)  # enrolment takes no other kind
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise _refused("the signature does not fit this device's key") from None


def _refused(why: str) -> UnauthenticatedError:
    return UnauthenticatedError(why, subject="device", hint="ask for a new nonce at /device/nonce and sign it")

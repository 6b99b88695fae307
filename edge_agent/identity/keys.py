"""The device's own key: ECDSA P-256, made here, never sent anywhere.

`cryptography` is imported by the functions that use it, which the serving process never calls: see `signer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import IdentityError
from edge_agent.host.durable import write_durably
from fleet.protocol.messages import renewal_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

TOKEN_PREFIX = b"edgeloop-token:"


def load_or_make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in `path` (PEM, mode 0600); made on the first call.

    Raises:
        IdentityError: the file is there but holds no P-256 key.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_durably(path, pem, mode=0o600)
    return load_key(path)


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in `path`; raises IdentityError when it is missing or no P-256 key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise IdentityError(f"{path}: no device key: {error}", subject=str(path), hint="enrol again") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"{path}: not an ECDSA key", subject=str(path), hint="enrol again")
    return key


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """A PEM certificate request; the hub alone decides which name the certificate gets."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name or "device")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def sign_nonce(key: ec.EllipticCurvePrivateKey, nonce: str) -> bytes:
    """ECDSA-SHA256 (DER) over `"edgeloop-token:" + nonce`."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return key.sign(TOKEN_PREFIX + nonce.encode(), ec.ECDSA(hashes.SHA256()))


def sign_renewal(key: ec.EllipticCurvePrivateKey, nonce: str, csr: str) -> bytes:
    """ECDSA-SHA256 (DER) over `messages.renewal_bytes`.

    Args:
        key: the device's enrolled one.
        nonce: the hub's.
        csr: the request for the new key, PEM.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return key.sign(renewal_bytes(nonce, csr), ec.ECDSA(hashes.SHA256()))


def signed_by(public: bytes, signature: bytes, payload: bytes) -> bool:
    """Tell whether `signature` is one of `public` (Ed25519, 32 bytes) over `payload`; false for a malformed key,
    too.

    Args:
        public: Ed25519, 32 bytes.
        signature: 64 bytes.
        payload: the bytes that it covers.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, payload)
    except (InvalidSignature, ValueError):
        return False
    return True

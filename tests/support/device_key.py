"""A device's key, as an agent would make it, and what it signs."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class DeviceKey:
    """A device's key and what it signs."""

    def __init__(self, key: Any = None) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())

    def csr(self, name: str = "whatever") -> str:
        builder = x509.CertificateSigningRequestBuilder()
        builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, nonce: str) -> bytes:
        return bytes(self.key.sign(b"edgeloop-token:" + nonce.encode(), ec.ECDSA(hashes.SHA256())))

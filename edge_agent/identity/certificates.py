"""Reads this device's certificate. The serving process does not import it, to do without `cryptography`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography import x509

from edge_agent.errors import IdentityError
from edge_agent.identity import pairs
from edge_agent.identity.keys import load_key


def fits(identity: Path) -> bool:
    """Return whether the certificate in use can be read and is the key's own."""
    try:
        pairs.finish_replacement(identity)
        certificate = x509.load_pem_x509_certificate((identity / pairs.CERTIFICATE).read_bytes())
        return certificate.public_key() == load_key(identity / pairs.KEY).public_key()
    except (OSError, ValueError, IdentityError):
        return False


def expires_at(identity: Path) -> float:
    """Return the end of the certificate in use (Unix seconds); 0 when it cannot be read."""
    try:
        certificate = x509.load_pem_x509_certificate((identity / pairs.CERTIFICATE).read_bytes())
    except (OSError, ValueError):
        return 0.0
    return certificate.not_valid_after_utc.timestamp()


def check_certificate(pem: str, key: Any, ca: bytes) -> float:
    """Check a new certificate, and return since when it holds (Unix seconds).

    Args:
        pem: the certificate.
        key: the public key that it must be for.
        ca: the authority's certificate (PEM), which must have signed it.

    Raises:
        IdentityError: it cannot be used.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
        belongs = certificate.public_key() == key
    except Exception as error:  # cryptography raises ValueError, TypeError and InvalidSignature here
        raise IdentityError(
            f"the hub's new certificate cannot be used: {error}", hint="ask the hub's operator"
        ) from error
    if not belongs:
        raise IdentityError("the hub's new certificate is for another key", hint="ask the hub's operator")
    return certificate.not_valid_before_utc.timestamp()

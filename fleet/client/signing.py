"""A publisher's own release key: Ed25519 in PEM, as `cloud-hub init` writes offline keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from fleet.errors import FailedError, NotFoundError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Signer(Struct, frozen=True):
    """A key and the TUF id it is known by."""

    key: Ed25519PrivateKey
    key_id: str

    def sign(self, payload: bytes) -> bytes:
        """The 64 bytes of an Ed25519 signature."""
        return self.key.sign(payload)


def load_signer(path: Path, passphrase: bytes | None = None) -> Signer:
    """Read a PEM key, which `passphrase` opens when it is protected.

    Raises:
        NotFoundError: no such file.
        FailedError: another kind of key, or a wrong passphrase.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer._key import SSlibKey

    if not path.is_file():
        raise NotFoundError(f"no key file {path}", subject=str(path))
    try:
        key = load_pem_private_key(path.read_bytes(), passphrase)
    except (ValueError, TypeError) as error:
        raise FailedError(
            f"cannot open the key {path}: {error}",
            subject=str(path),
            hint="its passphrase goes into EDGELOOP_PASSPHRASE",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise FailedError(f"{path} is not an Ed25519 key", subject=str(path))
    return Signer(key, SSlibKey.from_crypto(key.public_key()).keyid)

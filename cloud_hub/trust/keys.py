"""Ed25519 keys as files: online ones in DIR/keys (0600), offline ones in DIR2 under a passphrase.

    DIR2/root.pem, targets.pem              offline; the ceremony alone reads them
    DIR/keys/{release,rollout,snapshot,timestamp,command}.pem   online
With an external release key, release.pem lies in DIR2 and goes to the publisher.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.signer import CryptoSigner, SSlibKey

from cloud_hub.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from fleet.durable import sync
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import CommandKeys, Signed

OFFLINE = ("root", "targets")
ONLINE = ("release", "rollout", "snapshot", "timestamp")
TOKEN_SECRET, SECRET_BYTES = "token-secret", 32
_RESTORE = "restore {} from a backup of the hub's directory"
KEY_OF_ROLE = {
    "root": "root",
    "targets": "targets",
    "models": "release",
    "channels": "rollout",
    "snapshot": "snapshot",
    "timestamp": "timestamp",
}


def generate() -> Ed25519PrivateKey:
    """A new key."""
    return Ed25519PrivateKey.generate()


def signer(key: Ed25519PrivateKey) -> CryptoSigner:
    """A TUF signer over `key`."""
    return CryptoSigner(key, public(key.public_key()))


def public(key: Ed25519PublicKey) -> SSlibKey:
    """The TUF form of a public key."""
    return SSlibKey.from_crypto(key)


def raw(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a public key."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


class CommandKey:
    """Signs commands to devices. Its id is the SHA-256 (hex) of the raw public key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = raw(key.public_key())
        self.key_id = hashlib.sha256(self.public).hexdigest()

    def sign(self, payload: bytes) -> Signed:
        """`payload` with its signature."""
        return Signed(key_id=self.key_id, payload=payload, signature=self._key.sign(payload))

    def target(self) -> bytes:
        """The content of the TUF target `hub/command-key.json`."""
        return encode_json(CommandKeys(keys={self.key_id: self.public.hex()}))


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a secret file (0600) durably.

    Args:
        path: of the file; its folder is made (0700).
        data: the secret.
        replace: overwrite what is there.

    Raises:
        ConflictError: it exists, and `replace` is not set.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not replace and path.exists():
        raise ConflictError(f"{path} exists already", subject=str(path), hint="choose an empty directory")
    temporary = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def save_key(path: Path, key: Ed25519PrivateKey, passphrase: bytes | None, *, replace: bool = False) -> None:
    """Write `key` as PKCS#8 PEM, encrypted when there is a passphrase.

    Args:
        path: of the file.
        key: to write.
        passphrase: encrypts it; None for none.
        replace: overwrite what is there.

    Raises:
        ConflictError: the file exists, and `replace` is not set.
    """
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        protection = serialization.BestAvailableEncryption(passphrase)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    write_private(path, pem, replace=replace)


def load_key(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Read a key.

    Raises:
        NotFoundError: there is no such file.
        ForbiddenError: the passphrase is missing or wrong.
        InvalidError: not an Ed25519 key.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"no key at {path}", subject=str(path), hint="check --offline-keys") from None
    try:
        encrypted = b"ENCRYPTED" in data
        key = serialization.load_pem_private_key(data, password=passphrase if encrypted else None)
    except TypeError as error:
        hint = "give --passphrase-file or EDGELOOP_PASSPHRASE"
        raise ForbiddenError(f"{path} is protected by a passphrase", subject=str(path), hint=hint) from error
    except ValueError as error:
        raise ForbiddenError(f"{path}: wrong passphrase, or not a key", subject=str(path)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidError(f"{path} is not an Ed25519 key", subject=str(path))
    return key


def read_secret(directory: Path) -> bytes:
    """Read the secret that signs devices' tokens, and that their group names are made of.

    Raises:
        NotFoundError: it is missing. InvalidError: it is cut short: tokens under it could be forged.
    """
    secret = read_held(directory, TOKEN_SECRET)
    if len(secret) != SECRET_BYTES:
        why = f"{directory / TOKEN_SECRET} has {len(secret)} bytes and should have {SECRET_BYTES}"
        raise InvalidError(why, subject=TOKEN_SECRET, hint=_RESTORE.format(directory))
    return secret


def read_held(directory: Path, name: str) -> bytes:
    """A file that lies in DIR/keys of every hub; NotFoundError when it is missing."""
    try:
        return (directory / name).read_bytes()
    except FileNotFoundError:
        why = f"{directory / name} is missing; without it this is not the hub that devices and operators know"
        raise NotFoundError(why, subject=name, hint=_RESTORE.format(directory)) from None


def load_held(directory: Path, name: str) -> Ed25519PrivateKey:
    """A key that lies in DIR/keys of every hub.

    Raises:
        NotFoundError: it is missing. ForbiddenError, InvalidError: it is damaged.
    """
    read_held(directory, f"{name}.pem")
    return load_key(directory / f"{name}.pem")


def load_online(directory: Path) -> dict[str, Ed25519PrivateKey]:
    """The keys in DIR/keys by name; `release` is absent when it is held elsewhere. NotFoundError: another is."""
    elsewhere = "release" if not (directory / "release.pem").exists() else ""
    return {name: load_held(directory, name) for name in ONLINE if name != elsewhere}


def signers_by_role(keys: Mapping[str, Ed25519PrivateKey]) -> dict[str, CryptoSigner]:
    """TUF role to signer, for the roles whose key is in `keys`."""
    return {role: signer(keys[name]) for role, name in KEY_OF_ROLE.items() if name in keys}

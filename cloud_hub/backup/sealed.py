"""The hub's keys in a backup, under a passphrase: scrypt (RFC 7914) makes the key of AES-256-GCM (NIST SP 800-38D)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Struct

from cloud_hub.errors import ForbiddenError, InvalidError

COST, BLOCK, LANES = 1 << 16, 8, 1  # 64 MiB of memory for every guess at the passphrase
LIMIT = 4 << 20  # bytes of all keys


class Sealed(Struct, frozen=True, kw_only=True):
    """The content of `keys.sealed`, as MessagePack."""

    salt: bytes
    nonce: bytes
    data: bytes


def seal(files: dict[str, bytes], passphrase: bytes, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """Seal `files` (name to bytes) under `passphrase`."""
    salt, nonce = random(16), random(12)
    data = AESGCM(_key(passphrase, salt)).encrypt(nonce, msgspec.msgpack.encode(files), None)
    return msgspec.msgpack.encode(Sealed(salt=salt, nonce=nonce, data=data))


def unseal(data: bytes, passphrase: bytes) -> dict[str, bytes]:
    """The files.

    Raises:
        ForbiddenError: the passphrase is wrong, or a byte was changed. InvalidError: not a sealed file.
    """
    try:
        sealed = msgspec.msgpack.decode(data, type=Sealed)
        plain = AESGCM(_key(passphrase, sealed.salt)).decrypt(sealed.nonce, sealed.data, None)
        files = msgspec.msgpack.decode(plain, type=dict[str, bytes])
    except InvalidTag as error:
        hint = "give the passphrase that the backup was made with"
        raise ForbiddenError("wrong passphrase, or the keys were changed", subject="keys", hint=hint) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidError(f"the keys in the backup cannot be read: {error}", subject="keys") from error
    for name in files:
        if Path(name).name != name or name in ("", ".", ".."):
            raise InvalidError(f"the keys in the backup have a file {name[:64]!r}", subject="keys")
    return files


def read_keys(directory: Path) -> dict[str, bytes]:
    """Read the files of a hub's keys.

    Raises:
        InvalidError: the folder holds more than keys.
    """
    found = {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}
    if sum(map(len, found.values())) > LIMIT:
        raise InvalidError(f"{directory} holds more than keys", subject=str(directory), hint="take the rest away")
    return found


def _key(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=COST, r=BLOCK, p=LANES).derive(passphrase)

"""The content of a backup: `backup.json` names every file of the folder with its size and SHA-256.

BACKUP/                0700, every file 0600
  backup.json          this document; its own hash is in it
  hub.db               the database as a SQLite file
  hub.toml             the configuration
  journal.jsonl        what was forbidden, as far as it was written at that time
  keys.sealed          the hub's keys under a passphrase, only when they were asked for
  objects/<sha256>     blobs, samples, snapshots, weights and logs that the database names
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from cloud_hub.errors import InvalidError, NotFoundError

FORMAT = 1
NAME, DATABASE, CONFIG, SEALED, OBJECTS = "backup.json", "hub.db", "hub.toml", "keys.sealed", "objects"
JOURNAL = "journal.jsonl"
PIECE = 1 << 20  # bytes that are read at a time
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DAMAGED = "take another backup; this one was damaged where it lay, or changed"


class Content(Struct, frozen=True, kw_only=True):
    """A file's size in bytes and its SHA-256 in lower-case hex."""

    size: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """`files` are by their name in the folder, `objects` by their key in the hub's store.

    `revision` is the newest migration of the database, `root` the SHA-256 of the first signed root: which hub this is.
    `missing` are keys that the database named and the store did not have.
    """

    format: int
    made_at: float
    version: str
    revision: str
    database: str
    root: str
    files: dict[str, Content]
    objects: dict[str, Content]
    missing: tuple[str, ...] = ()

    @property
    def has_keys(self) -> bool:
        """True if the hub's keys are in it, under a passphrase."""
        return SEALED in self.files

    @property
    def size(self) -> int:
        """Bytes of all files; an object that several keys name counts once."""
        once = {content.sha256: content.size for content in self.objects.values()}
        return sum(content.size for content in self.files.values()) + sum(once.values())


class _Written(Struct, frozen=True):
    sha256: str
    backup: msgspec.Raw


def encode(manifest: Manifest) -> bytes:
    """The bytes of `backup.json`."""
    body = msgspec.json.encode(manifest, order="deterministic")
    return msgspec.json.encode(_Written(hashlib.sha256(body).hexdigest(), msgspec.Raw(body)))


def read(folder: Path) -> Manifest:
    """The manifest of the backup in `folder`.

    Raises:
        NotFoundError: there is none. InvalidError: it is damaged, or of a format that this version does not know.
    """
    path = folder / NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        hint = "give the folder that `cloud-hub backup` made"
        raise NotFoundError(f"no backup in {folder}", subject=str(folder), hint=hint) from None
    try:
        written = msgspec.json.decode(data, type=_Written)
        if hashlib.sha256(written.backup).hexdigest() != written.sha256:
            raise InvalidError(f"{path} does not have its own hash", subject=str(path), hint=_DAMAGED)
        known = msgspec.json.decode(written.backup, type=dict[str, msgspec.Raw]).get("format", msgspec.Raw(b""))
        if bytes(known) != str(FORMAT).encode():
            hint = "restore it with the version of Edgeloop that made it, or a newer one"
            raise InvalidError(f"a backup of format {bytes(known)[:9]!r}, not {FORMAT}", subject=str(path), hint=hint)
        manifest = msgspec.json.decode(written.backup, type=Manifest)
    except msgspec.DecodeError as error:
        raise InvalidError(f"{path} cannot be read: {error}", subject=str(path), hint=_DAMAGED) from error
    if any(_SHA256.fullmatch(content.sha256) is None for content in manifest.objects.values()):
        raise InvalidError(f"{path} names an object that has no hash", subject=str(path), hint=_DAMAGED)
    return manifest


def check(folder: Path, manifest: Manifest) -> None:
    """Read every file of the backup; InvalidError names the first that is missing or is not what was written."""
    for name, content in sorted(_files(manifest).items()):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise InvalidError(f"{path} is missing in the backup", subject=str(path), hint=_DAMAGED)
        found = measured(path)
        if found != content:
            what = f"has {found.size} bytes, not {content.size}" if found.size != content.size else "has another hash"
            raise InvalidError(f"{path} {what}", subject=str(path), hint=_DAMAGED)


def _files(manifest: Manifest) -> Mapping[str, Content]:
    allowed = {DATABASE, CONFIG, JOURNAL, SEALED}
    if not {DATABASE, CONFIG, JOURNAL} <= set(manifest.files) <= allowed:
        raise InvalidError(f"{NAME} names other files than a backup has", subject=NAME, hint=_DAMAGED)
    objects = {f"{OBJECTS}/{content.sha256}": content for content in manifest.objects.values()}
    return {**manifest.files, **objects}


def measured(path: Path) -> Content:
    """Size and hash of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            size += len(piece)
    return Content(size=size, sha256=digest.hexdigest())


def write_content(path: Path, pieces: Iterator[bytes]) -> Content:
    """Write a new file that only its owner reads (0600), durably.

    Returns:
        size and hash of what it holds.

    Raises:
        FileExistsError: the file is there.
    """
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return Content(size=size, sha256=digest.hexdigest())

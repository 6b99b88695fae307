"""The object store over obstore: a directory by default, S3 by URL, memory as the fake of the tests.

Durability: obstore writes a directory's file beside its final name and links it in, but calls no
fsync; after a power cut such a file may be there with no bytes. `LocalObjects` therefore syncs the
file and every folder on its path before a put returns. S3 is durable when it answers. A folder inside
another one goes with its last object.

Compare-and-swap: S3 and memory compare the store's own tag. A directory has no such operation, so
`LocalObjects` takes a file lock beside the directory and compares a hash of the content; all
processes of one machine may share it, a network file system may not.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, MemoryStore, S3Store

from cloud_hub.errors import ConflictError, InvalidError, NotFoundError, UnreachableError
from cloud_hub.ports import ObjectInfo, Objects, Stored
from fleet.durable import sync

_SHA256 = re.compile(r"[0-9a-f]{64}")


def blob_key(sha256: str) -> str:
    """Return the key of a blob.

    Raises:
        NotFoundError: this is not a hash.
    """
    if _SHA256.fullmatch(sha256) is None:
        raise NotFoundError(f"{sha256!r} is not a SHA-256 in lower-case hex", subject="blob")
    return f"blobs/{sha256}"


def delta_key(new: str, old: str) -> str:
    """Return the key of a patch: beside the blobs, since a blob's name is a file's. NotFoundError as for `blob_key`."""
    return f"deltas/{blob_key(new).removeprefix('blobs/')}/{blob_key(old).removeprefix('blobs/')}"


def open_objects(url: str) -> Objects:
    """The store behind `url`: a directory (made when missing), `s3://bucket/prefix`, or `memory://`.

    S3 takes its credentials, region and endpoint from the usual `AWS_…` variables.
    """
    if url.startswith("s3://"):
        return ObstoreObjects(S3Store.from_url(url))
    if url == "memory://":
        return ObstoreObjects(MemoryStore())
    if "://" in url:
        raise InvalidError(f"unknown object store {url!r}", subject=url, hint="give a directory or an s3:// URL")
    return LocalObjects(Path(url))


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"no object {key}", subject=key) from None
    except (AlreadyExistsError, PreconditionError) as error:
        raise ConflictError(f"object {key} has changed meanwhile", subject=key) from error
    except (BaseError, OSError) as error:
        raise UnreachableError(
            f"object store: {type(error).__name__} at {key}",
            subject=key,
            hint="check the store's disk, address and credentials",
        ) from error


@contextmanager
def _writing(key: str) -> Iterator[None]:
    """As `_translated`; what a store does not find when it writes is the place, such as its bucket."""
    try:
        with _translated(check_key(key)):
            yield
    except NotFoundError as error:
        raise UnreachableError(
            f"object store: there is no place for {key}",
            subject=key,
            hint="make the bucket, or correct `objects` in hub.toml",
        ) from error


def check_key(key: str) -> str:
    """Return `key`; InvalidError when a part is empty, `.` or `..`, or has a control character."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or not key.isprintable() or "\\" in key:
        raise InvalidError(f"not an object key: {key!r}", subject="object")
    return key


class ObstoreObjects:
    """`Objects` over any obstore store that compares tags itself."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def put_new(self, key: str, data: bytes) -> bool:
        """See `Objects.put_new`."""
        return self._create(key, data)

    def put_file(self, key: str, path: Path) -> bool:
        """See `Objects.put_file`. A large file goes up in parts, so existence is asked first."""
        if self.exists(key):
            return False
        with path.open("rb") as source, _writing(key):
            obstore.put(self._store, key, source)
        return True

    def put_if_match(self, key: str, data: bytes, tag: str | None) -> str:
        """See `Objects.put_if_match`."""
        mode: Any = "create" if tag is None else {"e_tag": tag}
        try:
            with _translated(check_key(key)):
                return str(obstore.put(self._store, key, data, mode=mode)["e_tag"])
        except NotFoundError as error:  # S3 says so of an object that was deleted meanwhile
            raise ConflictError(f"object {key} is not there any more", subject=key) from error

    def put(self, key: str, data: bytes) -> None:
        """See `Objects.put`."""
        with _writing(key):
            obstore.put(self._store, key, data)

    def get(self, key: str) -> Stored:
        """See `Objects.get`."""
        with _translated(check_key(key)):
            result = obstore.get(self._store, key)
            return Stored(bytes(result.bytes()), str(result.meta["e_tag"]))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Objects.get_range`."""
        if length == 0:
            return b""
        with _translated(check_key(key)):
            return bytes(obstore.get_range(self._store, key, start=start, length=length))

    def stream(self, key: str, start: int = 0, length: int | None = None, chunk: int = 1 << 18) -> Iterator[bytes]:
        """See `Objects.stream`."""
        found = self.info(key)
        if found is None:
            raise NotFoundError(f"no object {key}", subject=key)
        end = found.size if length is None else min(found.size, start + length)
        while start < end:
            piece = self.get_range(key, start, min(chunk, end - start))
            yield piece
            start += len(piece)

    def info(self, key: str) -> ObjectInfo | None:
        """See `Objects.info`."""
        try:
            with _translated(check_key(key)):
                return _info(obstore.head(self._store, key))
        except NotFoundError:
            return None

    def exists(self, key: str) -> bool:
        """See `Objects.exists`."""
        return self.info(key) is not None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Objects.list`."""
        with _translated(check_key(prefix)):
            for batch in obstore.list(self._store, prefix):
                yield from (_info(meta) for meta in batch)

    def delete(self, key: str) -> None:
        """See `Objects.delete`."""
        try:
            with _translated(check_key(key)):
                obstore.delete(self._store, key)
        except NotFoundError:
            return

    def _create(self, key: str, data: bytes) -> bool:
        try:
            with _writing(key):
                obstore.put(self._store, key, data, mode="create")
        except ConflictError:
            return False
        return True


class LocalObjects(ObstoreObjects):
    """`Objects` in a directory, durable and with compare-and-swap by a lock file beside it."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._root.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._lock = self._root.with_name(self._root.name + ".lock")
        super().__init__(LocalStore(str(self._root)))

    def put_new(self, key: str, data: bytes) -> bool:
        """Create and sync."""
        created = self._create(key, data)
        self._sync(key)
        return created

    def put_file(self, key: str, path: Path) -> bool:
        """Copy beside, sync, and link in, so that a reader never sees half a file."""
        created = super().put_file(key, path)
        self._sync(key)
        return created

    def put(self, key: str, data: bytes) -> None:
        """Replace and sync."""
        super().put(key, data)
        self._sync(key)

    def delete(self, key: str) -> None:
        """See `Objects.delete`. Its folder goes with the last object in it, and no other: whoever puts one beside it
        makes that folder again, and needs the one around it to stay. obstore's own cleanup removes both."""
        super().delete(key)
        folder = (self._root / key).parent
        if self._root in folder.parents and folder.parent != self._root:
            with suppress(OSError):  # there are others in it, or it is gone
                folder.rmdir()

    def get(self, key: str) -> Stored:
        """The tag is a hash of the content."""
        data = super().get(key).data
        return Stored(data, _tag(data))

    def put_if_match(self, key: str, data: bytes, tag: str | None) -> str:
        """Compare and replace under the lock."""
        with self._locked():
            try:
                current: str | None = self.get(key).tag
            except NotFoundError:
                current = None
            if current != tag:
                raise ConflictError(f"object {key} has changed meanwhile", subject=key)
            self.put(key, data)
        return _tag(data)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sync(self, key: str) -> None:
        """Sync the file and every folder up to the root: any of them may have been made for it."""
        path = self._root / key
        with _translated(key):
            sync(path)
            for folder in path.parents:
                sync(folder)
                if folder == self._root:
                    break


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _info(meta: Any) -> ObjectInfo:
    modified: datetime = meta["last_modified"]
    return ObjectInfo(str(meta["path"]), int(meta["size"]), modified.timestamp())

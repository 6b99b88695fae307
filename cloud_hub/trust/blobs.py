"""Blobs and patches on their way into the object store: kept when they are what they say, and audited once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError, NotFoundError, TooLargeError
from cloud_hub.objects import blob_key, delta_key
from fleet.api.blobs import StoredBlob, StoredDelta
from fleet.protocol import delta
from fleet.protocol.errors import ProtocolError


class Upload:
    """A blob that is coming in, gathered in a temporary file and hashed as it comes. A context manager; blocks.

    Raises NotFoundError when `sha256` is no hash.
    """

    def __init__(self, hub: Hub, sha256: str) -> None:
        self._hub, self._sha256, self._key = hub, sha256, blob_key(sha256)
        self._digest, self._size = hashlib.sha256(), 0

    def __enter__(self) -> Self:
        descriptor, name = tempfile.mkstemp(dir=self._hub.config.temporary_dir, prefix="upload-")
        self._path, self._file = Path(name), os.fdopen(descriptor, "wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink()

    def write(self, piece: bytes) -> None:
        """Add to what has come; TooLargeError above the hub's limit for a blob."""
        self._size += len(piece)
        limit = self._hub.config.limits.blob
        if self._size > limit:
            raise TooLargeError(f"the blob has more than {limit} bytes", subject=self._sha256)
        self._digest.update(piece)
        self._file.write(piece)

    def keep(self, *, actor: str) -> StoredBlob:
        """Put it into the store, unless it is there; InvalidError when the bytes have another hash."""
        self._file.flush()
        found = self._digest.hexdigest()
        if found != self._sha256:
            raise InvalidError(
                f"the bytes hash to {found}, not to {self._sha256}", subject=self._sha256, hint="upload it again"
            )
        created = self._hub.objects.put_file(self._key, self._path)
        if created:
            with self._hub.session() as session:
                self._hub.audit(session, actor, "blob.upload", self._sha256, {"size": self._size})
        return StoredBlob(sha256=self._sha256, size=self._size, created=created)


def size_of(hub: Hub, sha256: str) -> int:
    """Bytes of a blob; NotFoundError when it is not there."""
    found = hub.objects.info(blob_key(sha256))
    if found is None:
        raise NotFoundError(f"no blob {sha256}", subject=sha256, hint="upload the blob before its patches")
    return found.size


def keep_delta(hub: Hub, sha256: str, old: str, patch: bytes, *, actor: str) -> StoredDelta:
    """Put a patch into the store, unless there is one.

    Args:
        hub: the hub.
        sha256: the blob that the patch makes, which is there.
        old: the blob that it is applied to.
        patch: its bytes; what they are for stands in their header.
        actor: who sends it, for the audit log.

    Raises:
        NotFoundError: no such blob. InvalidError: not a patch, or one between other blobs.
    """
    key = delta_key(sha256, old)
    try:
        header = delta.decode_header(patch[: delta.HEADER_SIZE], total=len(patch))
    except ProtocolError as error:
        raise InvalidError(f"not a patch: {error}", subject=sha256) from error
    if (header.new, header.old, header.new_size) != (sha256, old, size_of(hub, sha256)):
        raise InvalidError("the patch is for other blobs", subject=sha256, hint=f"it makes {header.new}")
    created = hub.objects.put_new(key, patch)
    if created:
        with hub.session() as session:
            hub.audit(session, actor, "delta.upload", sha256, {"from": old, "size": len(patch)})
    return StoredDelta.model_validate({"sha256": sha256, "from": old, "size": len(patch), "created": created})

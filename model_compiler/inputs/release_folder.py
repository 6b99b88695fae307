"""A release directory, read: its manifest, its blobs, its encoder; each blob is checked against its hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fleet.protocol import drift_encoder
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Blob, Manifest, decode_manifest
from model_compiler.errors import SourceError


def blob_of(data: bytes) -> Blob:
    """The content address of some bytes."""
    return Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def read_blob(folder: Path, blob: Blob) -> bytes:
    """A blob of a release directory; raises SourceError where it is missing or changed."""
    try:
        data = (folder / "blobs" / blob.sha256).read_bytes()
    except OSError as error:
        raise SourceError(f"{folder}: blob {blob.sha256[:12]}: {error.strerror}", subject=str(folder)) from error
    if blob_of(data) != blob:
        raise SourceError(f"{folder}: blob {blob.sha256[:12]} has changed", subject=str(folder))
    return data


def read_release(folder: Path) -> Manifest:
    """The manifest of a release directory, with every blob checked against its hash.

    Raises:
        SourceError: not a release directory, or a blob that is missing or changed.
    """
    try:
        manifest = decode_manifest((folder / "manifest.json").read_bytes())
        for blob in manifest.blobs():
            read_blob(folder, blob)
    except OSError as error:
        raise SourceError(f"{folder}: not a release directory: {error.strerror}", subject=str(folder)) from error
    except ProtocolError as error:
        raise SourceError(f"{folder}: {error}", subject=str(folder)) from error
    return manifest


def encoder_of(release: Path) -> drift_encoder.Encoder:
    """The encoder that an earlier release of the model carries; raises SourceError when it has none."""
    manifest = read_release(release)
    if manifest.sketch is None:
        raise SourceError(f"{release}: has no drift encoder", subject=str(release))
    try:
        return drift_encoder.decode_encoder((release / "blobs" / manifest.sketch.encoder.sha256).read_bytes())
    except ProtocolError as error:
        raise SourceError(f"{release}: {error}", subject=str(release)) from error

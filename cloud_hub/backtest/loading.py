"""A release directory as a backtest needs it: its manifest, its encoder, and what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from cloud_hub.backtest.replay import LoadedRelease
from cloud_hub.errors import InvalidError, NotFoundError
from fleet.protocol.drift_encoder import Encoder, decode_encoder
from fleet.protocol.figures import decode_profile
from fleet.protocol.manifest import Blob, Manifest
from model_compiler.errors import CompilerError
from model_compiler.inputs.release_folder import read_blob, read_release


class ReleaseFolder(Struct, frozen=True, kw_only=True):
    """A release that was read; `names` are the features' own names by input, where it knows them."""

    manifest: Manifest
    release: LoadedRelease
    encoder: Encoder | None
    names: Mapping[str, Sequence[str]]


def load(folder: Path) -> ReleaseFolder:
    """Read a release directory.

    Raises:
        NotFoundError: it is not there. InvalidError: it is none, or a blob is missing or changed.
        ProtocolError: its encoder or its training profile cannot be read.
    """
    hint = "give the directory that model-compiler wrote (--out), or a recipe's run"
    if not folder.is_dir():
        raise NotFoundError(f"no release directory {folder}", subject=str(folder), hint=hint)
    try:
        manifest = read_release(folder)
        wanted = [manifest.sketch.encoder] if manifest.sketch is not None else []
        wanted += [manifest.profile] if isinstance(manifest.profile, Blob) else []
        blobs = {blob.sha256: read_blob(folder, blob) for blob in wanted}
    except CompilerError as error:
        raise InvalidError(str(error), subject=str(folder), hint=error.hint or hint) from error
    encoder = decode_encoder(blobs[manifest.sketch.encoder.sha256]) if manifest.sketch is not None else None
    profile = decode_profile(blobs[manifest.profile.sha256]) if isinstance(manifest.profile, Blob) else None
    return ReleaseFolder(
        manifest=manifest,
        release=LoadedRelease(manifest=(folder / "manifest.json").read_bytes(), blobs=blobs),
        encoder=encoder,
        names=profile.names if profile is not None else {},
    )

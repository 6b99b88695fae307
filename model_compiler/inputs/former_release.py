"""The release that devices come from: what a new one keeps of it costs them nothing, and the rest less."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Blob, Manifest
from fleet.protocol.manifest_detail import decode_detail
from fleet.protocol.selftest import Vector, decode_vectors
from model_compiler.inputs.release_folder import read_blob, read_release


@dataclass(frozen=True)
class Former:
    """Its manifest, and those of its blobs that are at hand by SHA-256: what `wanted_of` says."""

    manifest: Manifest
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """Its self-test vectors; none where they are not at hand, or are of a later format."""
        data = self.files.get(self.manifest.selftest.blob.sha256)
        try:
            return decode_vectors(data) if data is not None else ()
        except ProtocolError:
            return ()

    @property
    def target(self) -> str:
        """The target of deferral that it was made for, in words; empty where nobody knows."""
        detail, asked = self.manifest.detail, ""
        data = self.files.get(detail.sha256) if isinstance(detail, Blob) else None
        if data is not None:
            with contextlib.suppress(ProtocolError):  # of a later format
                asked = decode_detail(data).target
        signed = [v.deferral.target for v in self.manifest.placed("edge") if v.deferral is not None]
        return asked or next((words for words in signed if words), "")

    @property
    def metric(self) -> str:
        """The metric that its gate is of."""
        return self.manifest.variants[0].verdict.metric

    def file_of(self, variant: str) -> bytes | None:
        """The model file of an edge variant; None where it has none of that name, or the file is not at hand."""
        found = [v.blob.sha256 for v in self.manifest.placed("edge") if v.name == variant]
        return self.files.get(found[0]) if found else None


def wanted_of(manifest: Manifest) -> tuple[Blob, ...]:
    """The blobs that a `Former` of this manifest uses."""
    front = [manifest.in_front.blob] if manifest.in_front is not None else []
    detail = [manifest.detail] if isinstance(manifest.detail, Blob) else []
    return (*[variant.blob for variant in manifest.placed("edge")], manifest.selftest.blob, *front, *detail)


def former_of(folder: Path) -> Former:
    """A release directory as the release that devices come from; raises SourceError when it is damaged."""
    manifest = read_release(folder)
    return Former(manifest, {blob.sha256: read_blob(folder, blob) for blob in wanted_of(manifest)})


def pairs(old: Manifest, new: Manifest) -> tuple[tuple[Blob, Blob], ...]:
    """Blobs that a device replaces when it goes from `old` to `new`, and what by: model files by variant, front and
    self-test."""
    known = {variant.name: variant.blob for variant in old.placed("edge")}
    found = [(known[v.name], v.blob) for v in new.placed("edge") if v.name in known]
    found.append((old.selftest.blob, new.selftest.blob))
    if old.in_front is not None and new.in_front is not None:
        found.append((old.in_front.blob, new.in_front.blob))
    return tuple(dict.fromkeys((before, after) for before, after in found if before != after))

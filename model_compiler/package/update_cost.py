"""Counts the bytes that a device fetches for an update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fleet.protocol.manifest import Blob, Manifest, encode_manifest
from model_compiler.build import grid
from model_compiler.inputs.dataset import Array
from model_compiler.inputs.former_release import Former, pairs
from model_compiler.package.delta import build

if TYPE_CHECKING:
    import torch


def update_bytes(former: Former, new: Manifest, files: Mapping[str, bytes]) -> dict[str, int]:
    """Count the bytes that a device fetches to go from a release to a new one, by edge variant: the manifest and each
    file that it lacks, as a patch where that is smaller.

    The repository's signed metadata and the channel come on top.

    Args:
        former: the release that it has, with the same variant.
        new: the new one's manifest.
        files: its blobs by SHA-256.
    """
    manifest = manifest_bytes(former.manifest, new)
    known = {variant.name: former.manifest.needed_for(variant) for variant in former.manifest.placed("edge")}
    changed = {after: before for before, after in pairs(former.manifest, new)}
    costs: dict[Blob, int] = {}

    def cost(blob: Blob) -> int:
        if blob not in costs:
            old = former.files.get(changed[blob].sha256) if blob in changed else None
            patch = blob.size if old is None else len(build(old, files[blob.sha256]).patch)
            costs[blob] = min(patch, blob.size)
        return costs[blob]

    return {
        variant.name: manifest
        + sum(cost(blob) for blob in new.needed_for(variant) if blob not in known.get(variant.name, ()))
        for variant in new.placed("edge")
    }


def manifest_bytes(old: Manifest, new: Manifest) -> int:
    """Count the bytes of the new manifest for a device that has the old one: the hub has patches between them."""
    before, after = encode_manifest(old), encode_manifest(new)
    return min(len(after), len(build(before, after).patch))


def written_patch(former: Former, name: str, module: torch.nn.Module, row: Sequence[Array]) -> int | None:
    """The bytes of the patch from a released LiteRT variant to the same file with a network's weights, on its grid.

    Args:
        former: the release that devices have.
        name: its variant.
        module: takes its inputs by place.
        row: one sample of each, (1, …).

    Returns:
        None where the network is of another graph.
    """
    from model_compiler.build import litert
    from model_compiler.inputs.sources import example_of

    released = former.file_of(name)
    assert released is not None  # checked by the caller
    made = grid.write(released, litert.convert(module.eval(), tuple(map(example_of, row))))
    return None if made is None else len(build(released, made).patch)

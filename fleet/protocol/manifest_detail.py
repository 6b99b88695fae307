"""The compiler's findings about a release that no device needs: a blob beside the manifest, for people and tools.

A device pays for every byte of its manifest, at each update; the curves of deferral, the notes on verdicts and the
versions of tools are two thirds of it. The manifest names the blob by its hash, so it is signed as before.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from fleet.protocol.blob import Blob
from fleet.protocol.codec import decode_json, encode_json
from fleet.protocol.manifest import MANIFEST_LIMIT, DeferralPoint, Manifest, Variant


class VariantDetail(Struct, frozen=True, kw_only=True):
    """Of one variant: the notes of its verdict, and its deferral's curve."""

    notes: tuple[str, ...] = ()
    curve: tuple[DeferralPoint, ...] = ()


class Detail(Struct, frozen=True, kw_only=True):
    """The blob, as JSON: the detail of variants by name, the versions of the tools that made them, and in words the
    target of deferral that was asked for, which a manifest has only where it can be promised. `intended_use` and
    `limits` are the publisher's own words for people; left out where nobody gave any."""

    schema: int = 1
    variants: dict[str, VariantDetail] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    target: str = ""
    intended_use: str | UnsetType = UNSET
    limits: str | UnsetType = UNSET


def encode_detail(detail: Detail) -> bytes:
    """Canonical bytes."""
    return encode_json(detail)


def decode_detail(data: bytes) -> Detail:
    """Raises TooLargeError or MalformedError."""
    return decode_json(data, Detail, limit=MANIFEST_LIMIT, subject="release detail")


def detail_of(manifest: Manifest, target: str = "") -> Detail:
    """Return the details that `without_detail` takes out of a manifest, and the wanted target of deferral."""
    curves = {v.name: v.deferral.curve if v.deferral is not None else () for v in manifest.variants}
    found = {v.name: VariantDetail(notes=v.verdict.notes, curve=curves[v.name]) for v in manifest.variants}
    return Detail(variants=found, tools=manifest.lineage.tools, target=target)


def without_detail(manifest: Manifest, detail: Blob) -> Manifest:
    """The manifest as devices fetch it; `detail` is where the rest is."""
    return replace(
        manifest,
        variants=tuple(_bare(variant) for variant in manifest.variants),
        lineage=replace(manifest.lineage, tools={}),
        detail=detail,
    )


def with_detail(manifest: Manifest, detail: Detail) -> Manifest:
    """A manifest with everything in it again, as people read it; it names no blob of detail."""
    return replace(
        manifest,
        variants=tuple(_full(variant, detail.variants.get(variant.name)) for variant in manifest.variants),
        lineage=replace(manifest.lineage, tools=manifest.lineage.tools or detail.tools),
        detail=UNSET,
    )


def _bare(variant: Variant) -> Variant:
    deferral = replace(variant.deferral, curve=()) if variant.deferral is not None else None
    return replace(variant, verdict=replace(variant.verdict, notes=()), deferral=deferral)


def _full(variant: Variant, detail: VariantDetail | None) -> Variant:
    if detail is None:
        return variant
    deferral = replace(variant.deferral, curve=detail.curve) if variant.deferral is not None else None
    return replace(variant, verdict=replace(variant.verdict, notes=detail.notes), deferral=deferral)

"""What must hold before something is signed. Pure but for the two lookups that come in as arguments."""

from __future__ import annotations

from collections.abc import Callable

from cloud_hub.errors import ConflictError, InvalidError
from fleet.protocol.channel import Channel
from fleet.protocol.manifest import Manifest

Sizes = Callable[[str], int | None]
Status = Callable[[str, int], str]


def check_gate(manifest: Manifest) -> None:
    """Raise InvalidError when a variant breaks the manifest's own gate.

    The terms are for what devices run; a cloud variant (which may be slower by design) is held to
    them only in a release without edge variants.
    """
    for variant in manifest.placed("edge") or manifest.variants:
        broken = manifest.gate.broken_by(variant.verdict)
        if broken:
            raise InvalidError(
                f"variant {variant.name!r} breaks the gate: {'; '.join(broken)}",
                subject=variant.name,
                hint="compile it with other settings, or change the gate's terms",
            )


def check_blobs(manifest: Manifest, size_of: Sizes) -> None:
    """Raise InvalidError when a blob is not in the store, or has another size than the manifest says."""
    for blob in manifest.blobs():
        size = size_of(blob.sha256)
        if size is None:
            hint = f"upload it first: PUT /api/v1/blobs/{blob.sha256}"
            raise InvalidError(f"blob {blob.sha256} is not in the store", subject=blob.sha256, hint=hint)
        if size != blob.size:
            raise InvalidError(
                f"blob {blob.sha256} has {size} bytes, the manifest says {blob.size}", subject=blob.sha256
            )


def check_sketch(manifest: Manifest, model: str, sketch_id: str) -> str:
    """The model's sketch id after this release; ConflictError when the release would change it."""
    if manifest.sketch is None:
        return sketch_id
    if sketch_id and manifest.sketch.sketch_id != sketch_id:
        raise ConflictError(
            f"model {model!r} has sketch {sketch_id}, the release brings {manifest.sketch.sketch_id}",
            subject=model,
            hint="compile with the model's own encoder, so that drift stays comparable",
        )
    return manifest.sketch.sketch_id


def named_releases(channel: Channel) -> set[tuple[str, int]]:
    """Every (model, release) that the document names: defaults, rules, rollouts, auditors."""
    named = set()
    for model, entry in channel.models.items():
        numbers = {entry.release, *(rule.release for rule in entry.rules)}
        if entry.rollout is not None:
            numbers |= {entry.rollout.release, entry.rollout.from_release}
        if entry.audit.auditor is not None:
            numbers.add(entry.audit.auditor)
        named |= {(model, number) for number in numbers}
    return named


def check_releases(channel: Channel, status_of: Status) -> None:
    """Raise InvalidError unless every release that the document names is published and above its floor."""
    for model, number in sorted(named_releases(channel)):
        status = status_of(model, number)
        if status != "published":
            raise InvalidError(
                f"channel {channel.channel!r} cannot name release {number} of {model!r}: it is {status}",
                subject=f"{model}/{number}",
                hint=f"see: fleet release list --model {model}",
            )

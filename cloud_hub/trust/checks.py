"""Checks what must hold before something is signed. Pure but for the two lookups that come in as arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from cloud_hub.errors import ConflictError, InvalidError
from fleet.protocol.channel import Channel
from fleet.protocol.errors import MalformedError, ProtocolError
from fleet.protocol.interface import Interface, check_names, differences, interface_of, lost_sketch
from fleet.protocol.manifest import Manifest, Variant
from fleet.protocol.onnx_file import port_names
from fleet.protocol.preprocessing import required_by
from fleet.tasks import check_task

Sizes = Callable[[str], int | None]
Status = Callable[[str, int], str]
Manifests = Callable[[str, int], Manifest]


MUTE_HINT = (
    "publish a release with one (model-compiler compile … --cloud TEACHER.onnx) and name it: --auditor N; "
    "or judge rollouts without an auditor: --evidence labels, signals or install"
)


class Current(NamedTuple):
    """The release that fixes a model's interface."""

    number: int
    manifest: Manifest


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


def check_interface(current: Current | None, manifest: Manifest, model: str, *, ends_monitoring: bool = False) -> None:
    """Raise ConflictError when a release changes what applications of the model rely on.

    Args:
        current: the release that fixes the interface now (`rows.interface_release`); None when none does.
        ends_monitoring: the publisher says that the release has no drift sketch on purpose.

    Raises:
        MalformedError: a name that no request can carry, or two that are alike; a task that does not exist, does not
            fit the outputs, or is not asked of the agents; steps that are not asked of the agents.
        ConflictError: the interface differs; both sides are in the message.
    """
    check_names([tensor.name for tensor in manifest.inputs], "input")
    check_names([tensor.name for tensor in manifest.outputs], "output")
    check_task(manifest)
    check_steps(manifest)
    if current is not None:
        refuse_changes(model, current, interface_of(manifest), ends_monitoring=ends_monitoring)


def check_steps(manifest: Manifest) -> None:
    """Raise MalformedError unless a release asks of its agents that they know its front and its steps."""
    missing = set(required_by(manifest.steps, manifest.in_front)) - set(manifest.requires)
    if missing:
        raise MalformedError(
            f"a release with these preprocessing steps must require {', '.join(sorted(missing))}",
            subject="preprocess",
            hint="else agents that do not know them would be offered it; model-compiler writes it",
        )


def refuse_changes(model: str, current: Current, new: Interface, *, ends_monitoring: bool = False) -> None:
    """Refuse a release that would change a model's interface.

    Args:
        model: the model's name.
        current: the release that fixed the interface.
        new: the interface of the other release.
        ends_monitoring: the new release may lack the sketch that the current one has.

    Raises:
        ConflictError: the interface differs; the message shows both sides.
    """
    fixed = interface_of(current.manifest)
    changed = differences(fixed, new)
    if changed:
        raise ConflictError(
            f"model {model!r} has an interface, fixed by release {current.number}: {'; '.join(changed)}",
            subject=model,
            hint=f"keep it: model-compiler compile --model {model}, or --extends RELEASE_DIR; "
            "a changed interface is a new model name: fleet model create NAME",
        )
    lost = lost_sketch(fixed, new)
    if lost and not ends_monitoring:
        raise ConflictError(
            f"model {model!r} has an interface, fixed by release {current.number}: {lost}",
            subject=model,
            hint=f"keep it: model-compiler compile --model {model}, or --extends RELEASE_DIR; "
            "or say that monitoring ends: fleet release publish --end-monitoring",
        )


def check_cloud_ports(manifest: Manifest, read: Callable[[str], bytes]) -> None:
    """Raise InvalidError unless every ONNX cloud variant calls its inputs and outputs as the manifest does.

    Args:
        read: the bytes of a blob by its hash.
    """
    ours = {tensor.name for tensor in manifest.ready}, {tensor.name for tensor in manifest.outputs}
    for variant in manifest.placed("cloud"):
        if variant.runtime != "onnx":
            continue
        try:
            found = port_names(read(variant.blob.sha256))
        except ProtocolError as error:
            raise InvalidError(
                f"cloud variant {variant.name!r}: {error}", subject=variant.name, hint=error.hint
            ) from error
        for kind, mine, theirs in zip(("inputs", "outputs"), ours, found, strict=True):
            if mine != set(theirs):
                raise InvalidError(
                    f"cloud variant {variant.name!r} calls its {kind} {', '.join(sorted(theirs))}; "
                    f"the release calls them {', '.join(sorted(mine))}",
                    subject=variant.name,
                    hint="export the teacher with the release's names (torch.onnx.export: input_names, output_names)",
                )


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


def cloud_variant(manifest: Manifest) -> Variant | None:
    """The variant that a hub answers with for a release: its first ONNX one for the cloud; None without one."""
    return next((variant for variant in manifest.placed("cloud") if variant.runtime == "onnx"), None)


def mute_auditor(model: str, number: int, manifest: Manifest) -> str:
    """Return why a release can audit nothing, in words; empty when it can.

    Args:
        model: of the release.
        number: of the release.
        manifest: of the release.
    """
    if cloud_variant(manifest) is not None:
        return ""
    return f"release {number} of {model!r} has no cloud variant, so the hub can answer no audit with it"


def partial_auditor(number: int, auditor: Manifest, compared: Mapping[int, Manifest]) -> str:
    """Return why audits by a release can compare these ones with nothing but themselves, in words; empty when they can.

    A cloud variant that is a file of a compared release's devices, or the float model that these were made from, agrees
    with it whatever is true: beside it a better release looks harmful, and a worse one of its own looks healthy.

    Args:
        compared: by their numbers, those that a rollout compares.
    """
    cloud = cloud_variant(auditor)
    if cloud is None:
        return ""
    for release, manifest in compared.items():
        for variant in manifest.placed("edge"):
            if variant.blob.sha256 == cloud.blob.sha256:
                return (
                    f"release {number} audits with {cloud.name!r}, which is the file {variant.name!r} of release "
                    f"{release}: it calls right whatever that one answers, and wrong what differs"
                )
        if _recorded_twin(cloud, manifest) is True:
            return (
                f"release {number} audits with {cloud.name!r}, which answers as the float model of release {release} "
                "does: it calls right nearly whatever that one answers, and wrong what differs"
            )
    return ""


def unproven_auditor(number: int, auditor: Manifest, compared: Mapping[int, Manifest]) -> str:
    """Return why it is open whether audits by a release can compare these ones, in words; empty where it is not.

    Args:
        compared: by their numbers, those that a rollout compares.
    """
    cloud = cloud_variant(auditor)
    if cloud is None:
        return ""
    for release, manifest in compared.items():
        if _recorded_twin(cloud, manifest) is UNSET:
            return (
                f"nobody recorded whether {cloud.name!r}, with which release {number} audits, is another model than "
                f"the devices of release {release} run: the same one would call right whatever that one answers"
            )
    return ""


def _recorded_twin(cloud: Variant, manifest: Manifest) -> bool | UnsetType | None:
    """Return what a release records of a cloud file (`Variant.twin`); None where it is not one of its own."""
    own = (variant.twin for variant in manifest.placed("cloud") if variant.blob.sha256 == cloud.blob.sha256)
    return next(own, None)


def check_auditors(before: Channel, after: Channel, manifest_of: Manifests) -> None:
    """Refuse an auditor that can answer nothing: each of its audits would fail.

    One that stands in the channel already keeps no other change from it.

    Args:
        before: the channel's present document.
        after: the one to publish.
        manifest_of: returns a manifest by model and number.

    Raises:
        InvalidError: a model is given such an auditor.
    """
    for model, entry in after.models.items():
        number, old = entry.audit.auditor, before.models.get(model)
        if number is None or (old is not None and old.audit.auditor == number):
            continue
        why = mute_auditor(model, number, manifest_of(model, number))
        if why:
            raise InvalidError(
                f"channel {after.channel!r} cannot have it as auditor: {why}",
                subject=f"{model}/{number}",
                hint=MUTE_HINT,
            )


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

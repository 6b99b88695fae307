"""From trained networks to a manifest whose blobs are in the store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.objects import blob_key, delta_key
from cloud_hub.training.checking import Contract, refused
from cloud_hub.training.run import Parts, RunRequest, lineage_of, onnx_of
from cloud_hub.trust.checks import Current
from fleet.protocol.errors import ProtocolError
from fleet.protocol.interface import interface_of
from fleet.protocol.manifest import Gate, Manifest, decode_manifest
from fleet.protocol.sketch import decode_encoder

if TYPE_CHECKING:
    from torch import nn


def contract_of(hub: Hub, model: str, current: Current | None) -> Contract | None:
    """What a new release of the model must keep, with the encoder of its sketch; None before its first release.

    Raises InvalidError when the encoder is not to be had.
    """
    if current is None:
        return None
    sketch, encoder = current.manifest.sketch, None
    if sketch is not None:
        try:
            encoder = decode_encoder(hub.objects.get(blob_key(sketch.encoder.sha256)).data)
        except (NotFoundError, ProtocolError) as error:
            raise InvalidError(
                f"the sketch encoder of model {model!r}, of release {current.number}, is not to be had: {error}",
                subject=model,
                hint="publish a release by hand that ends monitoring: fleet release publish --end-monitoring",
            ) from error
    words = f"model {model!r} has an interface, fixed by release {current.number}"
    return Contract(model, words, interface_of(current.manifest), encoder)


def compile_run(
    hub: Hub,
    request: RunRequest,
    parts: Parts,
    *,
    teacher: nn.Module,
    student: nn.Module,
    labels: Sequence[str],
    current: tuple[int, Manifest] | None,
    progress: Callable[[str], None],
) -> bytes:
    """Compile, with the gate of the current release and the request's contract; returns the manifest's bytes.

    Args:
        parts: the run's data, its inputs called as in the release.
        labels: the class names.
        current: number and manifest of the release that devices come from.

    Raises:
        ConflictError: the release would not keep the model's interface.
        InvalidError: the compiler refuses it, with its reason.
    """
    from model_compiler.data import make_dataset
    from model_compiler.errors import CompilerError, InterfaceError
    from model_compiler.pipeline import compile_release
    from model_compiler.request import CompileRequest

    out = request.out / "release"
    shutil.rmtree(out, ignore_errors=True)
    manifest = current[1] if current is not None else None
    contract = request.contract
    lineage = lineage_of(request)
    if current is not None:
        lineage = msgspec.structs.replace(lineage, parents=(f"release {current[0]}",))
    recipe = request.loaded.recipe
    try:
        compile_release(
            CompileRequest(
                calibration=make_dataset(parts.calibration.inputs, parts.calibration.y, "calibration"),
                validation=make_dataset(parts.validation.inputs, parts.validation.y, "validation"),
                targets=recipe.targets,
                out=out,
                module=student,
                cloud=onnx_of(teacher, parts.train.inputs, parts.outputs),
                labels=labels,
                inputs=tuple(parts.train.inputs),
                outputs=parts.outputs,
                interface=contract.interface if contract is not None else None,
                encoder=contract.encoder if contract is not None else None,
                gate=manifest.gate if manifest is not None else Gate(),
                search=True,
                tuning=make_dataset(parts.train.inputs, parts.train.y, "training"),
                lineage=lineage,
                seed=request.seed,
                progress=progress,
            )
        )
    except CompilerError as error:
        if contract is not None and isinstance(error, InterfaceError):
            raise refused(contract, str(error)) from error
        raise InvalidError(f"the compiler refuses it: {error}", subject="compile", hint=error.hint) from error
    for blob in (out / "blobs").iterdir():
        hub.objects.put_file(f"blobs/{blob.name}", blob)
    data = (out / "manifest.json").read_bytes()
    if manifest is not None:
        _put_patches(hub, manifest, decode_manifest(data))
    return data


def _put_patches(hub: Hub, old: Manifest, new: Manifest) -> None:
    """So that devices with the current release need not fetch whole files."""
    from model_compiler.delta import build

    known = {variant.name: variant.blob for variant in old.placed("edge")}
    for variant in new.placed("edge"):
        before = known.get(variant.name)
        if before is None or before == variant.blob:
            continue
        files = [hub.objects.get(blob_key(blob.sha256)).data for blob in (before, variant.blob)]
        patch = build(*files).patch
        if len(patch) < variant.blob.size:
            hub.objects.put_new(delta_key(variant.blob.sha256, before.sha256), patch)

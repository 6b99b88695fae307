"""From trained networks to a manifest whose blobs are in the store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError
from cloud_hub.objects import blob_key, delta_key
from cloud_hub.training.run import Parts, RunRequest, lineage_of, onnx_of
from fleet.protocol.manifest import Gate, Manifest, decode_manifest
from fleet.protocol.sketch import decode_encoder

if TYPE_CHECKING:
    from torch import nn


def compile_run(
    hub: Hub,
    request: RunRequest,
    parts: Parts,
    *,
    teacher: nn.Module,
    student: nn.Module,
    current: tuple[int, Manifest] | None,
    progress: Callable[[str], None],
) -> bytes:
    """Compile, with the gate and the drift encoder of the current release; returns the manifest's bytes.

    Raises InvalidError with the compiler's reason.
    """
    from model_compiler.data import make_dataset
    from model_compiler.errors import CompilerError
    from model_compiler.pipeline import compile_release
    from model_compiler.request import CompileRequest

    out = request.out / "release"
    shutil.rmtree(out, ignore_errors=True)
    manifest = current[1] if current is not None else None
    encoder = None
    if manifest is not None and manifest.sketch is not None:
        encoder = decode_encoder(hub.objects.get(f"blobs/{manifest.sketch.encoder.sha256}").data)
    lineage = lineage_of(request)
    if current is not None:
        lineage = msgspec.structs.replace(lineage, parents=(f"release {current[0]}",))
    recipe = request.loaded.recipe
    try:
        compile_release(
            CompileRequest(
                calibration=make_dataset(parts.calibration.x, parts.calibration.y, "calibration"),
                validation=make_dataset(parts.validation.x, parts.validation.y, "validation"),
                targets=recipe.targets,
                out=out,
                module=student,
                cloud=onnx_of(teacher, parts.train.x),
                labels=recipe.labels,
                gate=manifest.gate if manifest is not None else Gate(),
                search=True,
                tuning=make_dataset(parts.train.x, parts.train.y, "training"),
                encoder=encoder,
                lineage=lineage,
                seed=request.seed,
                progress=progress,
            )
        )
    except CompilerError as error:
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

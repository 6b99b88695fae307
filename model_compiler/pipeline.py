"""The whole job: build variants, measure them, gate them, calibrate them, pack a release."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from fleet.protocol.manifest import Gate, Lineage, Manifest, Placement, Runtime, Tensor, Variant
from fleet.protocol.sketch import Encoder
from model_compiler import deferral, pack, preflight, reference, runners, vectors, verdict
from model_compiler.data import Dataset, check_labels, check_pair
from model_compiler.errors import CompilerError, GateError, TargetError
from model_compiler.variants import TARGETS, Target

if TYPE_CHECKING:
    import torch

CLOUD = "cloud-onnx-fp32"
RUNTIME_NAMES: dict[Runtime, str] = {"litert": "ai-edge-litert", "onnx": "onnxruntime"}
TOOLS = ("ai-edge-litert", "ai-edge-quantizer", "litert-torch", "numpy", "onnx", "onnxruntime", "torch")


@dataclass(frozen=True)
class CompileRequest:
    """What to build. Exactly one of `module` and `onnx` (checked bytes) is the source.

    `cloud` is the teacher as ONNX bytes; it becomes the release's cloud variant.
    """

    calibration: Dataset
    validation: Dataset
    targets: Sequence[str]
    out: Path
    module: torch.nn.Module | None = None
    onnx: bytes | None = None
    cloud: bytes | None = None
    labels: Sequence[str] = ()
    gate: Gate = field(default_factory=Gate)
    defer: deferral.DeferTarget = field(default_factory=deferral.DeferTarget)
    encoder: Encoder | None = None
    lineage: Lineage = field(default_factory=Lineage)
    seed: int = 0
    progress: Callable[[str], None] = lambda step: None


@dataclass(frozen=True)
class CompileReport:
    """What came of it: the manifest as written, and each target that was left out with its reason."""

    out: Path
    manifest: Manifest
    left_out: dict[str, str]


@dataclass(frozen=True)
class _Built:
    """A variant's file, its outputs on the validation set (n, classes), and its latency."""

    name: str
    target: Target
    placement: Placement
    model: bytes
    outputs: npt.NDArray[np.float32]


def compile_release(request: CompileRequest) -> CompileReport:
    """Compile, measure, gate and pack; nothing is written unless at least one edge variant passes.

    Raises:
        DataError, SourceError: the input is not usable.
        TargetError: not one target could be built.
        GateError: targets were built, none met the gate.
    """
    check_pair(request.calibration, request.validation)
    pack.check_replaceable(request.out)
    models, left_out = _build_models(request)
    built, refused = _run(request, models)
    left_out |= refused
    variants, broken, manifest_blobs = _judge(request, built)
    left_out |= broken
    kept = [b for b in built if b.name in {v.name for v in variants}]
    manifest, blobs = _assemble(request, variants, kept)
    manifest, rejected = _preflight(request, manifest, blobs + manifest_blobs)
    left_out |= rejected
    needed = {blob.sha256 for blob in manifest.blobs()}
    data = [blob for blob in blobs + manifest_blobs if pack.blob_of(blob).sha256 in needed]
    pack.write_release(request.out, manifest, data, pack.report_json(manifest, left_out))
    return CompileReport(request.out, manifest, left_out)


def _build_models(request: CompileRequest) -> tuple[dict[str, bytes], dict[str, str]]:
    """The model file of every target that can be built, plus the float reference, and why others cannot."""
    unknown = [target for target in request.targets if target not in TARGETS]
    if unknown or not request.targets:
        raise TargetError(f"unknown target {', '.join(unknown) or '(none)'}", hint=f"known: {', '.join(TARGETS)}")
    models: dict[str, bytes] = {}
    left_out: dict[str, str] = {}
    # Float variants first: the quantized ones are made from them.
    for name in sorted(
        set(request.targets) | _float_parents(request.targets), key=lambda n: TARGETS[n].precision != "fp32"
    ):
        request.progress(f"building {name}")
        try:
            models[name] = _build(request, name, models)
        except TargetError as error:
            left_out[name] = str(error)
    if not any(name in models for name in request.targets):
        raise TargetError("no target could be built: " + "; ".join(left_out.values()))
    return models, {name: why for name, why in left_out.items() if name in request.targets}


def _float_parents(targets: Sequence[str]) -> set[str]:
    return {f"{TARGETS[target].runtime}-fp32" for target in targets}


def _build(request: CompileRequest, name: str, models: dict[str, bytes]) -> bytes:
    from model_compiler import sources
    from model_compiler.variants import litert, onnx

    target = TARGETS[name]
    if target.precision != "fp32":
        parent = models.get(f"{target.runtime}-fp32")
        if parent is None:
            raise TargetError(f"{name}: its float model could not be built", subject=name)
        if target.runtime == "litert":
            return litert.quantize(parent, target.precision, request.calibration.x)
        return onnx.quantize(parent, request.calibration.x)
    if request.module is None:
        if target.runtime == "onnx" and request.onnx is not None:
            return request.onnx
        raise TargetError(
            f"{name}: an ONNX source cannot become a LiteRT model", subject=name, hint="give a torch source"
        )
    example = sources.example_of(request.validation.x)
    return (
        litert.convert(request.module, example) if target.runtime == "litert" else onnx.export(request.module, example)
    )


def _run(request: CompileRequest, models: dict[str, bytes]) -> tuple[list[_Built], dict[str, str]]:
    """Run every model over the validation set, each in a child of its own."""
    built: list[_Built] = []
    refused: dict[str, str] = {}
    jobs: list[tuple[str, Target, Placement, bytes]] = [(name, TARGETS[name], "edge", models[name]) for name in models]
    if request.cloud is not None:
        jobs.append((CLOUD, TARGETS["onnx-fp32"], "cloud", request.cloud))
    for name, target, placement, model in jobs:
        request.progress(f"running {name}")
        try:
            outputs = runners.outputs(name, target.runtime, model, request.validation.x)
        except TargetError as error:
            if placement == "cloud":
                raise
            refused[name] = str(error)
            continue
        built.append(_Built(name, target, placement, model, outputs))
    if not built:
        raise TargetError("no variant runs: " + "; ".join(refused.values()))
    check_labels(request.validation, built[0].outputs.shape[1])
    return built, refused


def _judge(request: CompileRequest, built: list[_Built]) -> tuple[list[Variant], dict[str, str], list[bytes]]:
    """Verdict, gate and deferral; variants come back in the order of the targets, the cloud's last."""
    request.progress("measuring latency")
    latency = runners.latencies({b.name: (b.target.runtime, b.model) for b in built}, request.validation.x)
    bases = {b.target.runtime: b for b in built if b.target.precision == "fp32" and b.placement == "edge"}
    cloud = next((b for b in built if b.placement == "cloud"), None)
    cloud_classes = None if cloud is None else cloud.outputs.argmax(axis=1)
    variants: list[Variant] = []
    left_out: dict[str, str] = {}
    order = [*request.targets, CLOUD]
    for item in sorted((b for b in built if b.name in order), key=lambda b: order.index(b.name)):
        # Against the float model on the same runtime: what quantization alone has changed.
        own = bases.get(item.target.runtime, item) if item.placement == "edge" else item
        measured = verdict.judge(
            outputs=item.outputs, reference=own.outputs, y=request.validation.y, size_bytes=len(item.model),
            latency=latency[item.name], reference_latency=latency[own.name],
        )  # fmt: skip
        reasons = request.gate.broken_by(measured) if item.placement == "edge" else []
        if reasons:
            left_out[item.name] = "misses the gate: " + "; ".join(reasons)
            continue
        softmax = verdict.holds_logits(item.outputs)
        fitted = None
        if item.placement == "edge":
            fitted = deferral.fit(
                item.outputs, request.validation.y, cloud_classes, request.defer, apply_softmax=softmax
            )
        variants.append(
            Variant(
                name=item.name,
                runtime=item.target.runtime,
                precision=item.target.precision,
                placement=item.placement,
                blob=pack.blob_of(item.model),
                verdict=measured,
                apply_softmax=softmax,
                deferral=fitted,
                runtimes=(RUNTIME_NAMES[item.target.runtime],),
            )
        )
    if not any(v.placement == "edge" for v in variants):
        raise GateError("no variant meets the gate: " + "; ".join(f"{n} {why}" for n, why in left_out.items()))
    return variants, left_out, [b.model for b in built if b.name in {v.name for v in variants}]


def _assemble(request: CompileRequest, variants: list[Variant], built: list[_Built]) -> tuple[Manifest, list[bytes]]:
    request.progress("choosing self-test vectors")
    x = request.validation.x
    classes = built[0].outputs.shape[1]
    selftest, _, selftest_data = vectors.build(
        x, {b.name: b.outputs for b in built}, input_name="x", output_name="logits"
    )
    drift, drift_data = reference.build(
        request.calibration.x, x, tensor="x", encoder=request.encoder, seed=request.seed
    )
    datatype = "INT8" if x.dtype == np.int8 else "FP32"
    labels = tuple(request.labels) or tuple(str(i) for i in range(classes))
    if len(labels) != classes:
        raise CompilerError(f"{len(labels)} labels were given, the model has {classes} classes")
    manifest = Manifest(
        inputs=(Tensor(name="x", datatype=datatype, shape=(-1, *x.shape[1:])),),
        outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, classes)),),
        labels=labels,
        variants=tuple(variants),
        selftest=selftest,
        sketch=drift,
        gate=request.gate,
        lineage=msgspec.structs.replace(
            request.lineage, tools={**request.lineage.tools, **tool_versions()}, seed=request.seed
        ),
    )
    return manifest, [selftest_data, *drift_data]


def _preflight(request: CompileRequest, manifest: Manifest, blobs: list[bytes]) -> tuple[Manifest, dict[str, str]]:
    """Drop each variant that the agent's self-test refuses."""
    kept: list[Variant] = []
    rejected: dict[str, str] = {}
    for variant in manifest.variants:
        request.progress(f"preflight of {variant.name}")
        why = preflight.refusal(manifest, variant, blobs, variant.runtimes[0])
        if why:
            rejected[variant.name] = f"{variant.runtimes[0]} refuses it: {why}"
        else:
            kept.append(variant)
    if not any(variant.placement == "edge" for variant in kept):
        raise GateError("no variant passes the self-test: " + "; ".join(f"{n}: {w}" for n, w in rejected.items()))
    return msgspec.structs.replace(manifest, variants=tuple(kept)), rejected


def tool_versions() -> dict[str, str]:
    """The version of every tool that shapes a release, and of Python."""
    versions = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions

"""From judged variants to a manifest and its blobs, tried in every runtime that it claims."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

from fleet.protocol.manifest import Gate, Lineage, Manifest, SketchRef, Tensor, Variant
from fleet.protocol.sketch import Encoder
from fleet.protocol.tensors import DTYPES
from model_compiler import preflight, reference, vectors
from model_compiler.data import Array, Dataset
from model_compiler.errors import CompilerError, GateError
from model_compiler.judging import Judged
from model_compiler.metrics import Metric, first

TOOLS = ("ai-edge-litert", "ai-edge-quantizer", "litert-torch", "numpy", "onnx", "onnxruntime", "torch")


@dataclass(frozen=True)
class Parts:
    """What every release is made from. `background` is what drift is compared with, `held_out` gives its margin."""

    metric: Metric
    background: Dataset
    held_out: Dataset
    validation: Dataset
    labels: Sequence[str]
    gate: Gate
    lineage: Lineage
    encoder: Encoder | None
    seed: int


def assemble(parts: Parts, kept: Sequence[Judged]) -> tuple[Manifest, list[bytes]]:
    """The manifest, with no runtime claimed yet, and all its blobs.

    Raises:
        CompilerError: the labels do not fit the classes.
    """
    profile = kept[0].ran.profile
    outputs = kept[0].ran.outputs
    selftest, _, data = vectors.build(
        parts.validation, {item.name: item.ran.outputs for item in kept},
        classes=parts.metric.classes, batched=profile.batched,
    )  # fmt: skip
    drift, drift_data = _drift(parts)
    manifest = Manifest(
        inputs=tuple(_tensor(name, array, profile.batched) for name, array in parts.validation.inputs.items()),
        outputs=tuple(_tensor(name, array, profile.batched) for name, array in outputs.items()),
        labels=_labels(parts, first(outputs)),
        variants=tuple(item.variant() for item in kept),
        selftest=selftest,
        sketch=drift,
        gate=parts.gate,
        lineage=msgspec.structs.replace(
            parts.lineage, tools={**parts.lineage.tools, **tool_versions()}, seed=parts.seed
        ),
    )
    return manifest, [*(item.ran.artifact.model for item in kept), data, *drift_data]


def _tensor(name: str, array: Array, batched: bool) -> Tensor:
    datatypes = {dtype: datatype for datatype, dtype in DTYPES.items()}
    shape = (-1, *array.shape[1:]) if batched else array.shape[1:]
    return Tensor(name=name, datatype=datatypes[np.dtype(array.dtype)], shape=shape)


def _labels(parts: Parts, scores: Array) -> tuple[str, ...]:
    """The class names; numbers where none were given. A single score column has no classes to name."""
    if not parts.metric.classes or scores.ndim != 2 or scores.shape[1] < 2:
        if parts.labels:
            raise CompilerError("--labels needs a metric of classes and an output of shape (n, classes)")
        return ()
    labels = tuple(parts.labels) or tuple(str(number) for number in range(scores.shape[1]))
    if len(labels) != scores.shape[1]:
        raise CompilerError(f"{len(labels)} labels were given, the model has {scores.shape[1]} classes")
    return labels


def _drift(parts: Parts) -> tuple[SketchRef | None, list[bytes]]:
    """The drift section on the first input of real numbers; none where there is too little to compare."""
    wanted = parts.encoder.tensor if parts.encoder is not None else ""
    for name, background in parts.background.inputs.items():
        held_out = parts.held_out.inputs[name]
        if name not in (wanted or name) or not reference.possible(background, held_out):
            continue
        if background.dtype.kind == "f" or background.dtype == np.int8 or wanted:
            return reference.build(background, held_out, tensor=name, encoder=parts.encoder, seed=parts.seed)
    return None, []


def preflighted(
    manifest: Manifest, blobs: Sequence[bytes], pythons: Sequence[Path], progress: Callable[[str], None]
) -> tuple[Manifest, dict[str, dict[str, str]]]:
    """The manifest with, for each variant, the runtimes that took it; a variant that none takes is dropped.

    Returns:
        The manifest, and by variant what each runtime that refused it said.

    Raises:
        GateError: no edge variant is left.
    """
    places = preflight.places(pythons)
    kept: list[Variant] = []
    refusals: dict[str, dict[str, str]] = {}
    for variant in manifest.variants:
        progress(f"preflight of {variant.name}")
        words = {
            place.runtime: preflight.refusal(manifest, variant, blobs, place)
            for place in places
            if place.kind == variant.runtime
        }
        refusals[variant.name] = {runtime: why for runtime, why in words.items() if why}
        taken = tuple(runtime for runtime, why in words.items() if not why)
        if taken:
            kept.append(msgspec.structs.replace(variant, runtimes=taken))
    if not any(variant.placement == "edge" for variant in kept):
        said = "; ".join(f"{n}: {r} refuses it: {why}" for n, found in refusals.items() for r, why in found.items())
        raise GateError(f"no variant passes the self-test: {said}")
    return msgspec.structs.replace(manifest, variants=tuple(kept)), refusals


def needed(manifest: Manifest, blobs: Sequence[bytes]) -> list[bytes]:
    """Those blobs that the manifest lists."""
    from model_compiler.pack import blob_of

    wanted = {blob.sha256 for blob in manifest.blobs()}
    return [data for data in blobs if blob_of(data).sha256 in wanted]


def tool_versions() -> dict[str, str]:
    """The version of every tool that shapes a release, and of Python."""
    versions = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
